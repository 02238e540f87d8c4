"""What is running, how far, how long still: one line that renews itself on a terminal, a line now and then in a log."""

import sys
import time
from typing import TextIO


def clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Counts towards `total`. Use as a context manager: the last state stays on the screen."""

    def __init__(self, what: str, total: int, unit: str = "", stream: TextIO | None = None, every: float = 5.0):
        self.what, self.total, self.unit = what, total, unit
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self.every = 0.2 if self.terminal else every
        self.start = self.shown = time.monotonic()
        self.done = 0
        self.first: tuple[float, int] | None = None
        self.note = ""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        if self.terminal:
            self.stream.write("\n")
            self.stream.flush()

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` in all (not since the last call); `note` is shown at the end of the line."""
        self.total = total or self.total
        now = time.monotonic()
        if self.first is None:
            self.first = (now, done)  # the rate leaves out the start-up before it
        self.done, self.note = done, note or self.note
        if now - self.shown >= self.every:
            self.shown = now
            self._show()

    def say(self, text: str) -> None:
        """A line of its own, above the one that renews itself."""
        self.stream.write(f"\r\x1b[K{text}\n" if self.terminal else f"{text}\n")
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        line = f"{self.what}  {self.done}/{self.total}{' ' + self.unit if self.unit else ''}  {clock(now - self.start)}"
        if self.first is not None and self.done > self.first[1] and self.done < self.total:
            rate = (self.done - self.first[1]) / (now - self.first[0])
            line += f", {clock((self.total - self.done) / rate)} left"
        line += f"  {self.note}" if self.note else ""
        self.stream.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        self.stream.flush()
