"""From a decision to an alias, so that two promotions at once cannot both win, and a kill at any step is mended.

A decision is taken against the champion that the log names, and claims the next place in the log (`audit`). If another
one stands there by then, the whole is decided again. Only then the alias is moved, and the place marked as done: the
next run does that for one that was killed before. An alias that something else moved (a person, on MLflow's pages) is
respected, and written down as `found`.

What can be seen for a moment: a process that stands still between its claim and its step finds, on waking, that others
went on; it then puts the alias where the log's end says.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.errors import PromotionError
from pipelines.registry import audit, succession, verdicts
from pipelines.registry.audit import Entry
from pipelines.registry.versions import CHALLENGER, CHAMPION, Registry

ATTEMPTS = 100  # at a place in the log: each one lost is another's decision
PATIENCE = 1.0  # seconds in which an alias that is being moved comes to stand where the log says


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The log, and the alias that follows it."""

    entries: Sequence[Entry]
    champion: int | None

    @property
    def next(self) -> int:
        return self.entries[-1].number + 1 if self.entries else 1


def settle(registry: Registry) -> State:
    """Bring the aliases to where the log says, and the log to where an alias was moved by hand."""
    followed = None
    for _ in range(ATTEMPTS):
        entries = registry.audit.entries()
        state = State(entries=entries, champion=entries[-1].after if entries else None)
        # What was followed last may have been overtaken while its alias was moved: then that has to be mended here.
        if entries and (not entries[-1].done or followed not in (None, entries[-1].number)):
            _follow(registry, state)
            followed = entries[-1].number
        elif (held := registry.aliases().get(CHAMPION)) == state.champion:
            return state
        elif entries and _passes(registry, state):
            continue
        else:
            registry.audit.claim(_found(state, held), state.next)
    raise PromotionError(f"the decisions about {registry.name} do not come to rest\ndo: run register again")


def commit(registry: Registry, decide: Callable[[State], Entry | None]) -> State:
    """Take a decision, as often as it takes until it stands; None decides nothing."""
    for _ in range(ATTEMPTS):
        state = settle(registry)
        entry = decide(state)
        if entry is None:
            _challenge(registry, state)
            return state
        if registry.audit.claim(entry, state.next):
            return settle(registry)
    raise PromotionError(f"others decided about {registry.name} all the time\ndo: run register again")


def _follow(registry: Registry, state: State) -> None:
    """What an entry means for the registry; each step may be repeated."""
    entry = state.entries[-1]
    verdicts.tell(registry, entry)
    if entry.after is None or registry.exists(entry.after):  # else it was deleted since, and is found to be gone
        registry.place(CHAMPION, entry.after)
    _challenge(registry, state)
    registry.audit.finish(entry)


def _challenge(registry: Registry, state: State) -> None:
    """The newest version, if it is not the champion."""
    newest = registry.newest()
    registry.place(CHALLENGER, newest if newest != state.champion else None)


def _passes(registry: Registry, state: State) -> bool:
    """Whether the alias is on its way; else it was moved by hand."""
    time.sleep(PATIENCE)
    now = registry.audit.entries()
    return len(now) != len(state.entries) or registry.aliases().get(CHAMPION) == state.champion


def _found(state: State, held: int | None) -> Entry:
    moved = f"the alias {CHAMPION} was moved from {audit.said(state.champion)} to {audit.said(held)} by something else"
    return Entry(
        what="found",
        version=held,
        before=state.champion,
        after=held,
        rule="by hand",
        reason=moved if state.entries else f"{audit.said(held)} was {CHAMPION} before decisions were kept",
        who="unknown",
        when=audit.now(),
    )


def withdrawal(entries: Sequence[Entry], version: int) -> str:
    """Why a version does not come back by itself; empty where it was never rolled back."""
    entry = succession.withdrawn(entries, version)
    if entry is None:
        return ""
    back = f"python -m stages.rollback --to {version}"
    return f"version {version} was rolled back on {entry.when[:10]} by {entry.who}: {entry.reason} ({back} restores it)"
