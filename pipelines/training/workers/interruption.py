"""A stage that is told to end (Ctrl-C, SIGTERM, a machine that is taken away) saves what it has learned first."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipelines.cluster import head
from pipelines.training.workers import regroup
from pipelines.training.workers.crew import say

GRACE = 25.0  # seconds; those who take machines away give thirty
SAME = 3.0  # seconds in which a second signal is taken for the first one


class Interruption:
    """Until `end` is called with what the signal would have done, or a second signal does it."""

    def __init__(self, state: Path):
        self.state = state
        self.by: int | None = None
        self.at = 0.0
        self.before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def end_if_any(self) -> None:
        """What the signal would have done at once: it raises."""
        if self.by is None:
            return
        handler = self.before[signal.Signals(self.by)]
        if not callable(handler):
            raise KeyboardInterrupt
        handler(self.by, None)

    def handle(self, number: int, frame: FrameType | None) -> None:
        if self.by is not None:
            # One that comes at once is the same: all of a group were told, and the one above this one tells it too.
            if time.monotonic() - self.at > SAME:
                self.end_if_any()
            return
        self.by, self.at = number, time.monotonic()
        if head.LOST.is_set():  # there is nobody left who could save anything
            self.end_if_any()
        say("interrupted: saving a checkpoint first; once more ends it at once")
        regroup.ask(self.state)
        signal.setitimer(signal.ITIMER_REAL, GRACE)


@contextmanager
def saving_first(state: Path) -> Iterator[Interruption]:
    """The group is asked to leave by the first signal; what is raised comes when it has, or after GRACE seconds."""
    interruption = Interruption(state)
    if threading.current_thread() is not threading.main_thread():  # where no signal comes
        yield interruption
        return
    alarm = signal.signal(signal.SIGALRM, lambda *_: interruption.end_if_any())
    for number in interruption.before:
        signal.signal(number, interruption.handle)
    try:
        yield interruption
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        for number, handler in interruption.before.items():
            signal.signal(number, handler)
