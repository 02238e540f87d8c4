"""Who is champion, by the log of decisions: what each entry does to the line of champions. Pure."""

from collections.abc import Sequence

from pipelines.registry.audit import Entry


def line(entries: Sequence[Entry]) -> list[int]:
    """The champions that stand, the present one last: a promotion adds one, a rollback takes off all above its target.

    Rolling back twice therefore goes back two champions, and not forth again.
    """
    standing: list[int] = []
    for entry in entries:
        if entry.after is None:
            standing = []
        elif entry.after in standing:
            standing = standing[: standing.index(entry.after) + 1]
        else:
            standing.append(entry.after)
    return standing


def once(entries: Sequence[Entry]) -> list[int]:
    """All that have ever been champion."""
    return sorted({entry.after for entry in entries if entry.after is not None})


def since(entries: Sequence[Entry]) -> Entry | None:
    """The entry that made the champion champion."""
    crowned = [entry for entry in entries if entry.after != entry.before]
    return crowned[-1] if crowned and crowned[-1].after is not None else None


def withdrawn(entries: Sequence[Entry], version: int) -> Entry | None:
    """The rollback that took the version off, where nothing has brought it back."""
    found = None
    for entry in entries:
        if entry.what == "rolled back" and entry.before == version:
            found = entry
        elif entry.after == version:
            found = None
    return found
