"""What MLflow is to be told, on disk before it is sent: each point once and in order, whoever is killed in between.

`told.jsonl` has a line for each message. `sent.json` says up to where they have arrived. A line that was sent and not
yet noted as such is sent again, which MLflow does not count twice.
"""

import json
import os
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines import files

Message = dict[str, Any]  # run: the child's name, "" for the run itself; what: params | metrics | tags | end
LIMIT = 64 * 2**20  # bytes that wait: a week of one point a second; what comes then is counted and lost
SWEEP = 2**20  # bytes that have arrived, after which the file starts anew


class Spool:
    """One thread adds; one other peeks, sends, and drops what it has sent."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.lines, self.marks = folder / "told.jsonl", folder / "sent.json"
        self.lock = threading.Lock()
        known = self._read_marks()
        self.key: str = known.get("key") or uuid.uuid4().hex  # of the run, for as long as the folder is there
        self.position: int = known.get("position", 0)
        self.runs: set[str] = set(known.get("runs", []))  # all that were ever spoken of
        self.ended: set[str] = set(known.get("ended", []))
        # The last step that each metric was told at. A training that resumes says some steps again.
        self.steps: dict[str, dict[str, int]] = known.get("steps", {})
        self.lost = 0
        self.size = self._mend()
        for message, _ in self._from(self.position):
            self._note(message)
        self._write_marks()

    def add(self, message: Message) -> bool:
        """Whether there was anything new in it."""
        with self.lock:
            news = self._news(message)
            if news is None:
                return False
            line = (json.dumps(news) + "\n").encode()
            try:
                if self.size - self.position + len(line) > LIMIT:
                    raise OSError
                with self.lines.open("ab") as file:
                    file.write(line)
            except OSError:  # full; training itself will say so, if it is the disk
                with suppress(OSError):
                    os.truncate(self.lines, self.size)  # half a line would spoil the next one
                self.lost += points(news)
                return False
            self.size += len(line)
            self._note(news)
            return True

    def peek(self, count: int) -> list[tuple[Message, int]]:
        """The next messages, each with the position behind it."""
        with self.lock:
            return self._from(self.position, count)

    def drop(self, position: int) -> None:
        """All before it has arrived."""
        with self.lock:
            self.position = position
            if self.position == self.size > SWEEP:
                self.lines.write_bytes(b"")
                self.position = self.size = 0
                self._write_marks()  # before anything is added: an old position would be beyond it
                return
            marks = self._marks()
        files.write_text(self.marks, marks)  # a slow disk holds up nobody who adds

    def waiting(self) -> int:
        """The points that have not arrived."""
        with self.lock:
            return self.lost + sum(points(message) for message, _ in self._from(self.position))

    def _news(self, message: Message) -> Message | None:
        """What of it was not told before; nothing more is told of a run that has ended."""
        run, what = message["run"], message["what"]
        if run in self.ended or (what == "params" and run in self.runs):
            return None
        if what == "metrics":
            known = self.steps.get(run, {})
            values = {k: v for k, v in message["values"].items() if message["step"] > known.get(k, -1)}
            return {**message, "values": values} if values else None
        return message

    def _note(self, message: Message) -> None:
        run = message["run"]
        self.runs.add(run)
        if message["what"] == "metrics":
            self.steps.setdefault(run, {}).update(dict.fromkeys(message["values"], message["step"]))
        elif message["what"] == "end":
            self.ended.add(run)
            self.steps.pop(run, None)

    def _from(self, position: int, count: int | None = None) -> list[tuple[Message, int]]:
        found: list[tuple[Message, int]] = []
        if self.lines.exists():
            with self.lines.open("rb") as file:
                file.seek(position)
                for line in file:
                    position += len(line)
                    if (message := _message(line)) is not None:
                        found.append((message, position))
                    if len(found) == count:
                        break
        return found

    def _mend(self) -> int:
        """The length of the file, after a line that was left torn is ended."""
        if not self.lines.exists():
            self.position = 0
            return 0
        raw = self.lines.read_bytes()
        if raw and not raw.endswith(b"\n"):
            with self.lines.open("ab") as file:
                file.write(b"\n")
            raw += b"\n"
        if self.position > len(raw):  # it was started anew, and that could not be noted
            self.position = 0
        return len(raw)

    def _read_marks(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads(self.marks.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known

    def _marks(self) -> str:
        marks = {
            "key": self.key,
            "position": self.position,
            "runs": sorted(self.runs),
            "ended": sorted(self.ended),
            "steps": self.steps,
        }
        return json.dumps(marks)

    def _write_marks(self) -> None:
        files.write_text(self.marks, self._marks())


def _message(line: bytes) -> Message | None:
    """None for a line that is torn: its writer was killed."""
    try:
        message = json.loads(line)
    except ValueError:
        return None
    return message if isinstance(message, dict) and "run" in message else None


def points(message: Mapping[str, Any]) -> int:
    return len(message["values"]) if message["what"] == "metrics" else 0
