"""What is known of each trial, one file each: written whole at every change, by the driver alone.

Tune's own state would not do: it is written every ten seconds, a kill can leave it cut off, and it is a pickle.
"""

import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipelines import files

log = logging.getLogger(__name__)
Status = Literal["running", "done", "stopped", "failed"]


@dataclass(kw_only=True, slots=True)
class Record:
    """One candidate, and how it did so far."""

    number: int
    drawn: dict[str, Any]  # dotted name -> value, as it began
    values: dict[str, Any]  # as it goes on: of a population they change
    rows: list[dict[str, float]] = field(default_factory=list)  # of its epochs; each has a score
    status: Status = "running"
    latency: float | None = None  # milliseconds
    error: str = ""
    notes: list[str] = field(default_factory=list)  # what happened on the way
    smaller: int = 0  # how often its micro-batches were halved
    lost: int = 0  # workers
    passed: int = 0  # the epochs for which it is decided that it goes on
    asked: int = 0  # place in the order of questions to the sampler and answers to it
    told: int = 0  # the same, 0: not yet

    @property
    def epochs(self) -> int:
        return len(self.rows)

    @property
    def live(self) -> bool:
        return self.status == "running"

    @property
    def score(self) -> float | None:
        """The primary metric on the validation split after the last epoch; None: it failed."""
        return self.rows[-1]["score"] if self.rows and self.status != "failed" else None

    def reached(self, epochs: int) -> bool:
        """So far, or at its own end."""
        return self.epochs >= epochs or self.status == "done"

    def score_at(self, epochs: int) -> float:
        return self.rows[min(epochs, self.epochs) - 1]["score"]


class Journal:
    """The records in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, record: Record) -> None:
        files.write_json(self.folder / f"{record.number:05d}.json", asdict(record))

    def read(self) -> dict[int, Record]:
        """By number. What cannot be read is left out: that trial is then begun again, from its own checkpoint."""
        found = {}
        for path in sorted(self.folder.glob("[0-9]*.json")):
            try:
                record = Record(**json.loads(path.read_text(encoding="utf-8")))
                found[record.number] = record
            except (OSError, ValueError, TypeError) as error:
                log.warning("%s is damaged (%s): that trial is begun again", path, error)
        return found
