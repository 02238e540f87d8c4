"""What a driver on a cluster cannot do without: the cluster's head, and the Ray of its own machine. When one of them is
gone, that is said, and the stage ends.

Ray would try for a while to reach it, and then end the process from within, in the middle of whatever it does.
"""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from pipelines.errors import RunError

EVERY = 2.0  # seconds between two looks
# Seconds in which it may come back: a head whose state is kept in Redis does. Ray's own patience is 60 and some 10.
HEAD, OWN = 20.0, 4.0


class Gone(Event):
    """Set when one is; `what` then says which."""

    what = ""


LOST = Event()  # of whom there is nothing left to ask


@contextmanager
def watched() -> Iterator[Gone]:
    """Raises RunError, in the main thread, when one of them does not answer any more; the event that it yields says so
    earlier, to those who would ask it something on their way out. Ray must be up."""
    import ray

    context = ray.get_runtime_context()
    own = next(node for node in ray.nodes() if node["NodeID"] == context.get_node_id())
    over, gone = Event(), Gone()
    for what, address, patience in (
        ("the head of the Ray cluster", context.gcs_address, HEAD),
        ("this machine's Ray", f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}", OWN),
    ):
        Thread(target=_watch, args=(f"{what}, {address},", address, patience, over, gone), daemon=True).start()
    try:
        yield gone
    except BaseException as error:
        if not gone.is_set():
            raise
        raise RunError(
            f"{gone.what} does not answer any more\n"
            "do: start it again (README, On a cluster); the same command then goes on from the last checkpoint"
        ) from error
    finally:
        over.set()
        LOST.clear()


def _watch(what: str, address: str, patience: float, over: Event, gone: Gone) -> None:
    silent = 0.0
    while silent < patience and not over.wait(EVERY):
        silent = 0.0 if answers(address) else silent + EVERY
    if not over.is_set() and not gone.is_set():
        gone.what = what
        gone.set()
        LOST.set()
        # As Ctrl-C would: it unwinds the stage, and Ray's calls let nothing else pass.
        os.kill(os.getpid(), signal.SIGINT)


def answers(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError:
        return False
    return True
