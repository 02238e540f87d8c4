"""What training says, told to MLflow beside the training and never in its way.

A thread opens the run when there is something to tell: by then the imports of Ray and torch are done (two threads that
import at once can see half a module), and training does not wait for MLflow's, nor for a slow server.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

from pipelines import tracking
from pipelines.errors import MasklineError

log = logging.getLogger(__name__)
PATIENCE = 60.0  # seconds that the end of a stage waits for MLflow


class Monitor:
    """One MLflow run, and one below it for each of the `children` (name -> parameters). Use as a context manager."""

    def __init__(
        self,
        root: Path,
        *,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        children: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.root, self.name, self.params, self.tags, self.children = root, name, params, dict(tags), children or {}
        self.queue: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.thread = Thread(target=self._guarded, daemon=True)

    def __enter__(self) -> "Monitor":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self.queue.put(("end", status))
        self.thread.join(timeout=PATIENCE)

    def metrics(self, row: Mapping[str, float], *, step: int, child: str = "") -> None:
        self.queue.put(("metrics", (child, dict(row), step)))

    def tag(self, tags: Mapping[str, str]) -> None:
        self.queue.put(("tags", dict(tags)))

    def _guarded(self) -> None:
        try:
            self._serve()
        except MasklineError as error:
            # The result does not depend on its being watched; `register` writes what is missing.
            log.warning("%s: not tracked any more: %s", self.name, error)

    def _serve(self) -> None:
        message = self.queue.get()
        run = self._start(self.name, self.params)
        runs = {"": run} | {name: self._start(name, params, run.id) for name, params in self.children.items()}
        while message[0] != "end":
            what, value = message
            if what == "tags":
                run.set_tags(value)
            else:
                child, row, step = value
                runs[child].log_metrics(row, step=step)
            message = self.queue.get()
        for each in reversed(runs.values()):
            each.finish(message[1])

    def _start(self, name: str, params: Mapping[str, Any], parent: str | None = None) -> tracking.Run:
        run = tracking.Run.start(self.root, name=name, tags=self.tags, parent=parent)
        run.log_params(params)
        return run
