"""What training says, told to MLflow beside the training and never in its way.

To tell is to append a line to a file (`spool`). A thread sends what is there: at once while MLflow answers, with
growing pauses while it does not, and in the next attempt where this process was killed, to the same run. It opens the
run when there is something to tell: by then the imports of Ray and torch are done (two threads that import at once can
see half a module), and training does not wait for MLflow's.
"""

import logging
import time
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from threading import Event, Thread
from typing import Any

from pipelines import tracking
from pipelines.errors import MasklineError, RunError
from pipelines.training.watching.spool import Message, Spool, points

log = logging.getLogger(__name__)
PATIENCE = 90.0  # seconds that the end of a stage waits for MLflow, from when anything arrived last: a restart
SHORT = 3.0  # of one that is interrupted
PAUSES = (0.5, 10.0)  # seconds between attempts: the first, doubled up to the second
BATCH = 500  # messages


class Monitor:
    """One MLflow run, and those of its `child`ren below it. Use as a context manager.

    `state` is the training's folder: for as long as it is there, it is the same run that goes on.
    """

    def __init__(self, root: Path, state: Path, *, name: str, params: Mapping[str, Any], tags: Mapping[str, str]):
        self.root, self.name, self.tags = root, name, dict(tags)
        self.spool = Spool(state / "tracking")
        self.runs: dict[str, tracking.Run] = {}
        self.trouble, self.away = "", False
        self.refused = 0
        self.arrived = 0.0
        self.status: str | None = None  # of the end
        self.news, self.ending = Event(), Event()
        self.thread = Thread(target=self._guarded, daemon=True)
        self._add("", "params", params=tracking.texts(params))

    def __enter__(self) -> "Monitor":
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self.arrived = time.monotonic()
        if self.away:
            log.warning("%s: waits for MLflow, %.0f s at most", self.name, PATIENCE)
        self.ending.set()
        self.news.set()
        # What was interrupted has little time; what is left is sent by the next attempt.
        patience = PATIENCE if kind is None or issubclass(kind, Exception) else SHORT
        while self.thread.is_alive() and time.monotonic() - self.arrived < patience:
            self.thread.join(timeout=0.2)
        left = self.spool.waiting() + self.refused
        if left or self.thread.is_alive():
            self.trouble = self.trouble or "MLflow did not answer in time"
            log.warning("%d points of run %s were not tracked: %s", left, self.name, self.trouble)

    def metrics(self, row: Mapping[str, Any], *, step: int, child: str = "") -> None:
        """Nested metrics, by dotted names. A step that was told before is not told again."""
        values = tracking.numbers(row)
        self._tell(child, "metrics", values=values, step=step, time=tracking.milliseconds())

    def tag(self, tags: Mapping[str, str], *, child: str = "") -> None:
        self._tell(child, "tags", tags=dict(tags))

    def child(self, name: str, params: Mapping[str, Any]) -> None:
        """A run below this one, unless it is there already."""
        self._tell(name, "params", params=tracking.texts(params))

    def end(self, child: str, status: str = "FINISHED") -> None:
        """The child has come to its end; the others end with the run."""
        self._tell(child, "end", status=status)

    def _tell(self, run: str, what: str, **values: Any) -> None:
        self._add(run, what, **values)
        self.news.set()

    def _add(self, run: str, what: str, **values: Any) -> None:
        self.spool.add({"run": run, "what": what, **values})

    def _guarded(self) -> None:
        try:
            self._serve()
        except MasklineError as error:
            # The result does not depend on its being watched; `register` writes what is missing.
            self.trouble = _first(error)
            log.warning("%s: not tracked any more: %s", self.name, error)

    def _serve(self) -> None:
        pause = 0.0
        while True:
            if not pause:
                self.news.wait()
            self.news.clear()
            last = self.ending.is_set()  # before the spool is read: nothing comes after the end
            try:
                self._send()
                if last:
                    self._finish()
                    return
                pause, self.away = 0.0, False
            except tracking.Unreachable as error:
                if not self.away:
                    where = self.spool.lines
                    log.warning("%s: %s; what is to be tracked waits in %s", self.name, _first(error), where)
                self.trouble, self.away = _first(error), True
                pause = min(2 * pause, PAUSES[1]) or PAUSES[0]
                if last:
                    time.sleep(pause)
                else:
                    self.ending.wait(pause)

    def _send(self) -> None:
        """All that waits, in order; consecutive points of one run in one call."""
        while waiting := self.spool.peek(BATCH):
            for _, group in groupby(waiting, lambda found: (found[0]["run"], found[0]["what"])):
                together = list(group)
                self._deliver([message for message, _ in together])
                self.spool.drop(together[-1][1])
                self.arrived = time.monotonic()

    def _deliver(self, messages: list[Message]) -> None:
        run, what = self._run(messages[0]["run"]), messages[0]["what"]
        try:
            if what == "metrics":
                run.log_points([(k, v, m["time"], m["step"]) for m in messages for k, v in m["values"].items()])
            for message in messages:
                if what == "params":
                    run.log_texts(message["params"])
                elif what == "tags":
                    run.set_tags(message["tags"])
                elif what == "end":
                    run.finish(message["status"])
        except tracking.Unreachable:
            raise
        except RunError as error:  # an answer, which would be the same again
            self.refused += sum(map(points, messages))
            self.trouble = _first(error)
            log.warning("%s: left out of what is tracked: %s", self.name, self.trouble)

    def _run(self, name: str) -> tracking.Run:
        if name not in self.runs:
            if name:
                parent, server = self._run("").id, self._run("").server
            else:
                parent, server = None, tracking.Server(self.root)
                tracking.end_the_dead(server)
            key = f"{self.spool.key}/{name}" if name else self.spool.key
            self.runs[name] = tracking.Run.once(
                server, self.root, key=key, name=name or self.name, tags=self.tags, parent=parent
            )
        return self.runs[name]

    def _finish(self) -> None:
        assert self.status is not None  # noqa: S101 - set before the end is
        for name in sorted(self.spool.runs - self.spool.ended, reverse=True):  # the run itself, "", last
            self._run(name).finish(self.status)


def _first(error: Exception) -> str:
    return str(error).splitlines()[0]
