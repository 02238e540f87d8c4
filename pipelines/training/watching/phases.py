"""What a rank is at: for the clock that adds it up, and for the other ranks, who may have to wait for it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.training.watching.heartbeat import Heartbeat
from pipelines.training.watching.timing import Timer

WORK = ("data", "forward", "backward", "update")


class Phases:
    def __init__(self, timer: Timer, heart: Heartbeat):
        self.timer, self.heart = timer, heart
        self.step, self.now = -1, "other"
        self._since = time.perf_counter()
        self._own = 0.0

    def enter(self, phase: str, ids: Sequence[str] = ()) -> None:
        """`ids`: of the images that are worked on from here on."""
        self.timer.lap(self.now)
        now = time.perf_counter()
        if self.now in WORK:
            self._own += now - self._since
        self.now, self._since = phase, now
        self.heart.beat(self.step, phase, ids)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """For the other ranks, in the middle of something."""
        before = self.now
        self.enter("communication")
        try:
            yield
        finally:
            self.enter(before)

    def own(self) -> float:
        """Seconds of work since it was last asked: without those in which it waited for others."""
        own, self._own = self._own, 0.0
        return own
