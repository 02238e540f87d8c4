"""What workers log, as lines of JSON with rank and step: `logs/rank-K.jsonl` in the training's folder.

Ray keeps its workers' output from the terminal, so warnings also go to the events, which the driver tells of.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from pipelines.training.watching.events import EventLog

LIMIT = 8 * 2**20  # bytes; then one older file is kept beside
APART = ("torch", "ray")  # whose loggers keep what they are told to themselves
SAID = 100  # different warnings


class _Lines(logging.Formatter):
    def __init__(self, rank: int, step: Callable[[], int]):
        super().__init__()
        self.rank, self.step = rank, step

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "rank": self.rank,
            "step": self.step(),
            "time": record.created,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _Warnings(logging.Handler):
    """Each once."""

    def __init__(self, events: EventLog, rank: int):
        super().__init__(logging.WARNING)
        self.events, self.rank, self.said = events, rank, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.said and len(self.said) < SAID:
            self.said.add(text)
            try:
                self.events.write("warning", rank=self.rank, text=text)
            except OSError:
                self.handleError(record)


@contextmanager
def to_files(state: Path, rank: int, step: Callable[[], int], events: EventLog) -> Iterator[None]:
    """All that this process logs, of ours from INFO on, and Python's warnings."""
    folder = state / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    lines = RotatingFileHandler(folder / f"rank-{rank}.jsonl", maxBytes=LIMIT, backupCount=1, encoding="utf-8")
    lines.setFormatter(_Lines(rank, step))
    handlers, ours = [lines, _Warnings(events, rank)], logging.getLogger("pipelines")
    ends = [logging.getLogger(), *(log for name in APART if not (log := logging.getLogger(name)).propagate)]
    before = ours.level
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    for log, handler in product(ends, handlers):
        log.addHandler(handler)
    try:
        yield
    finally:
        for log, handler in product(ends, handlers):
            log.removeHandler(handler)
        for handler in handlers:
            handler.close()
        logging.captureWarnings(False)
        ours.setLevel(before)
