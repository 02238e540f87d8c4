"""What training says, told to MLflow beside the training and never in its way.

MLflow is imported and its run opened in a thread: training starts meanwhile, and does not wait for a slow server.
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


class Monitor:
    """One MLflow run, and one below it for each `child` that speaks. Use as a context manager."""

    def __init__(self, root: Path, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]):
        self.root, self.name, self.params, self.tags = root, name, params, dict(tags)
        self.queue: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self.thread = Thread(target=self._guarded, daemon=True)

    def __enter__(self) -> "Monitor":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self.queue.put(("end", status))
        self.thread.join(timeout=60)

    def metrics(self, row: Mapping[str, float], *, step: int, child: str = "") -> None:
        self.queue.put(("metrics", (child, dict(row), step)))

    def child(self, name: str, params: Mapping[str, Any]) -> None:
        self.queue.put(("child", (name, params)))

    def tag(self, tags: Mapping[str, str]) -> None:
        self.queue.put(("tags", dict(tags)))

    def _guarded(self) -> None:
        try:
            self._serve()
        except MasklineError as error:
            # The result does not depend on its being watched; `register` writes what is missing.
            log.warning("%s: not tracked any more: %s", self.name, error)

    def _serve(self) -> None:
        run = tracking.Run.start(self.root, name=self.name, tags=self.tags)
        run.log_params(self.params)
        children: dict[str, tracking.Run] = {}
        while True:
            what, value = self.queue.get()
            if what == "end":
                for each in (*children.values(), run):
                    each.finish(value)
                return
            if what == "tags":
                run.set_tags(value)
            elif what == "child":
                name, params = value
                children[name] = tracking.Run.start(self.root, name=name, tags=self.tags, parent=run.id)
                children[name].log_params(params)
            else:
                name, row, step = value
                (children[name] if name else run).log_metrics(row, step=step)
