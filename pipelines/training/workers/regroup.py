"""How the driver asks a worker group to end early, with its state saved, so that one of another size goes on.

It puts a file into the job's state folder, for which rank 0 looks now and then (`Group.leave`). A file needs no actor,
and a driver that dies leaves nothing that waits.
"""

from pathlib import Path

NAME = "regroup"


def ask(state: Path) -> None:
    (state / NAME).touch()


def asked(state: Path) -> bool:
    return (state / NAME).exists()


def clear(state: Path) -> None:
    (state / NAME).unlink(missing_ok=True)
