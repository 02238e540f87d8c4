"""The alias goes back to an earlier champion, for a reason that a person gives."""

from pipelines.errors import InputError
from pipelines.registry import audit, champion, promoting, succession
from pipelines.registry.audit import Entry
from pipelines.registry.promoting import State
from pipelines.registry.versions import Registry


def roll_back(registry: Registry, *, to: int | None, why: str) -> tuple[int, State]:
    """Who was champion, and the state afterwards. The target's files are looked at first: what cannot be loaded does
    not go into production."""
    if not why.strip():
        raise InputError("a rollback needs a reason, which the audit keeps", do='--why "..."')
    left: list[int] = []

    def entry(state: State) -> Entry:
        current, target = state.champion, _target(registry, state, to)
        if current is None:
            raise InputError(f"{registry.name} has no champion to roll back")
        champion.load(registry, target)
        left.append(current)
        return Entry(
            what="rolled back",
            version=target,
            before=current,
            after=target,
            rule="by hand",
            reason=why.strip(),
            who=audit.who(),
            when=audit.now(),
            run=registry.version(target).run_id,
            commit=registry.version(target).tags.get("maskline.git.commit", ""),
        )

    state = promoting.commit(registry, entry)
    return left[-1], state


def _target(registry: Registry, state: State, to: int | None) -> int:
    line = succession.line(state.entries)
    allowed = [v for v in succession.once(state.entries) if v != state.champion and registry.exists(v)]
    if to is None:
        earlier = [version for version in line[:-1] if version in allowed]
        if not earlier:
            others = f"--to one of {', '.join(map(str, allowed))}" if allowed else "register another model"
            raise InputError(f"{registry.name} has no champion before {audit.said(state.champion)}", do=others)
        return earlier[-1]
    if to not in allowed:
        found = "is champion already" if to == state.champion else "was never champion, or is there no longer"
        what = f"version {to} of {registry.name} {found} (allowed: {', '.join(map(str, allowed)) or 'none'})"
        raise InputError(what, do="name another one; a model becomes champion by register")
    return to
