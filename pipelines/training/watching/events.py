"""What training says while it runs: rank 0 appends lines of JSON, the driver follows them and tells people and MLflow.

A file needs no actor and no queue, survives the death of either side, and can be read with `tail -f`.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import Any

Event = dict[str, Any]


class EventLog:
    """The writing side. `step` events are thinned to one a second, the rest is written as it comes."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.said = 0.0

    def write(self, kind: str, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "time": time.time(), **values}) + "\n")

    def mark(self, name: str) -> None:
        """A point in time, for benchmarks/startup.py: what came before it ends here."""
        self.write("mark", name=name)

    def step(self, **values: Any) -> None:
        if time.monotonic() - self.said >= 1.0:
            self.said = time.monotonic()
            self.write("step", **values)


def tail(path: Path, size: int = 2**16) -> list[Event]:
    """The newest events, oldest first."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        return [event for line in file if (event := _event(line)) is not None]


def _event(line: bytes) -> Event | None:
    """None for a line that is torn, because its writer was killed or because it was not read from its start."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "kind" in event else None


class Follower:
    """The reading side: calls `on_event` for every line, from a thread, until closed; then reads what is left.

    How far it has read is kept beside the events: what one follower was told is not told to the next, and what nobody
    was told, since the driver was killed before the workers, is told then.
    """

    def __init__(self, path: Path, on_event: Callable[[Event], None]):
        self.path, self.on_event = path, on_event
        self.mark = path.with_suffix(".told")
        self.position = self._marked()
        self.stop = Flag()
        self.thread = Thread(target=self._follow, daemon=True)

    def __enter__(self) -> "Follower":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()

    def _follow(self) -> None:
        while not self.stop.wait(0.3):
            self._read()
        self._read()

    def _read(self) -> None:
        if not self.path.exists():
            return
        before = self.position
        with self.path.open("rb") as file:
            file.seek(self.position)
            for line in file:
                if not line.endswith(b"\n"):
                    break  # still being written
                self.position += len(line)
                if (event := _event(line)) is not None:
                    self.on_event(event)
        if self.position != before:
            self.mark.write_text(str(self.position))  # not synced: who reads twice is told twice, which does no harm

    def _marked(self) -> int:
        try:
            position = int(self.mark.read_text())
        except (OSError, ValueError):
            return 0
        return position if self.path.exists() and position <= self.path.stat().st_size else 0
