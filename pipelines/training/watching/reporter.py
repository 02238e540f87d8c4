"""What the driver makes of a training's events: progress for people, metrics for MLflow, each warning once, and at the
end where the time went."""

from collections.abc import Callable
from typing import Any

from pipelines.progress import Progress
from pipelines.training.watching import timing
from pipelines.training.watching.events import Event
from pipelines.training.watching.monitor import Monitor

ABOUT = ("kind", "time")  # an event, not what it tells


class Reporter:
    """Is called with each event. `metric` is the task's headline; `epochs` 0: a model that is fitted at once."""

    def __init__(self, progress: Progress, monitor: Monitor, *, metric: str, epochs: int):
        self.progress, self.monitor, self.metric, self.epochs = progress, monitor, metric, epochs
        self.best = 0.0
        self.ranks: list[timing.Seconds] = []  # the run's seconds so far, by rank
        self.said: set[str] = set()
        self.of_kind: dict[str, Callable[[Event], None]] = {
            "step": self._step, "epoch": self._epoch, "timing": self._timing, "warning": self._warn, "hang": self._warn,
            "rollback": self._warn,
        }  # fmt: skip

    def __call__(self, event: Event) -> None:
        if (tell := self.of_kind.get(event["kind"])) is not None:
            tell(event)

    def table(self) -> str:
        """Where the time of the run went; nothing, where no epoch was trained."""
        return timing.table(self.ranks) if self.ranks else ""

    def _step(self, event: Event) -> None:
        note = f"epoch {event['epoch'] + 1}/{self.epochs}  loss {event['loss']:.3f}"
        self.progress.update(event["step"], f"{note}  best {self.metric} {self.best:.3f}", total=event["steps"])
        self.monitor.metrics({"step_loss": event["loss"]}, step=event["step"])

    def _epoch(self, event: Event) -> None:
        self.best = max(self.best, event.get(f"val_{self.metric}", 0.0))
        if not self.epochs:
            self.progress.update(1, f"fitted  {self.metric} {self.best:.3f}", total=1)
        self.monitor.metrics({k: v for k, v in event.items() if k not in ABOUT}, step=event["epoch"])

    def _timing(self, event: Event) -> None:
        self.ranks = event["ranks"]
        self.monitor.metrics(event["metrics"], step=event["epoch"])

    def _warn(self, event: dict[str, Any]) -> None:
        if (text := event["text"]) not in self.said:
            self.said.add(text)
            self.progress.say(f"rank {event['rank']}: {text}")
