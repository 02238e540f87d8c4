"""What people and MLflow are told of a training's events."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import tracking
from pipelines.progress import Progress
from pipelines.training.watching import timing
from pipelines.training.watching.events import EventLog, Follower
from pipelines.training.watching.monitor import Monitor
from pipelines.training.watching.reporter import Reporter
from pipelines.training.watching.timing import Timer


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[str, Reporter]]:
    """report(write, epochs=2) -> what a log shows of the events that `write` writes, and who showed it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def follow(write: Callable[[EventLog], None], epochs: int) -> tuple[str, Reporter]:
        log, events = io.StringIO(), EventLog(tmp_path / "state" / "events.jsonl")
        monitor = Monitor(tmp_path, tmp_path / "state", name="train", params={}, tags={})
        with monitor, Progress("train", 0, "steps", stream=log, every=0) as progress:
            reporter = Reporter(progress, monitor, metric="pq", epochs=epochs)
            with Follower(events.path, reporter):
                write(events)
        return log.getvalue(), reporter

    return follow


def test_a_training_s_events_reach_people_and_mlflow(report, tmp_path):
    timer = Timer()

    def write(events: EventLog) -> None:
        events.mark("Ray started")
        events.step(epoch=0, step=3, steps=8, loss=0.5)
        for rank in (1, 0):
            events.write("warning", rank=rank, text="slow disk")
        events.write("hang", rank=0, step=3, blamed=[1], text="rank 1 stands in forward of step 3 since 60 s")
        events.write("epoch", epoch=0, train_loss=0.75, val_pq=0.25)
        events.write("timing", epoch=0, **timing.report([timer.end_epoch(), timer.end_epoch()], images=8))
        events.write("epoch", epoch=1, train_loss=0.5)  # not validated

    said, reporter = report(write, 2)
    assert said.count("slow disk") == 1
    assert "rank 0: rank 1 stands in forward of step 3 since 60 s" in said
    assert "3/8 steps" in said
    assert "epoch 1/2  loss 0.500  best pq 0.000" in said
    assert reporter.best == 0.25
    assert reporter.table().startswith("where the time went (2 workers")
    server = tracking.Server(tmp_path)
    (run,) = server.search_runs([server.experiment])
    metrics = run.data.metrics
    assert metrics["train_loss"] == 0.5
    assert metrics["val_pq"] == 0.25
    assert metrics["step_loss"] == 0.5
    assert metrics.keys() >= {f"time/{name}" for name in timing.PHASES} | {"data_wait_share", "memory/rss_peak_gib"}
    assert "time" not in metrics


def test_a_model_that_is_fitted_at_once_has_no_steps(report):
    said, reporter = report(lambda events: events.write("epoch", epoch=0, seconds=1.0, val_pq=0.5), 0)
    assert "train  1/1 steps" in said
    assert "fitted  pq 0.500" in said
    assert reporter.table() == ""
