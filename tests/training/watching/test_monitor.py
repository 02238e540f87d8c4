"""What MLflow is told of a training, and that training never waits for it."""

import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking
from pipelines.training.watching.monitor import Monitor

REPOSITORY = Path(__file__).parents[3]
TAGS = {"maskline.stage": "train", "maskline.fingerprint": "f"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def runs(root: Path) -> dict[str, Any]:
    server = tracking.Server(root)
    return {run.info.run_name: run for run in server.search_runs([server.experiment])}


def monitor(root: Path) -> Monitor:
    return Monitor(root, root / "state", name="train", params={"seed": 3, "train": {"epochs": 2}}, tags=TAGS)


def test_a_training_and_its_trials_are_told(root):
    children = {f"trial-{i}": {"train.learning_rate": rate} for i, rate in enumerate((0.1, 0.2))}
    with monitor(root) as told:
        for name, params in children.items():
            told.child(name, params)
        for epoch in range(3):
            told.metrics({"train_loss": 1.0 - epoch / 4}, step=epoch)
            told.metrics({"val_pq": epoch / 10}, step=epoch, child="trial-1")
        told.tag({"maskline.weights": "abc"})
    found = runs(root)
    assert set(found) == {"train", "trial-0", "trial-1"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    train, trial = found["train"], found["trial-1"]
    assert train.data.params == {"seed": "3", "train.epochs": "2"}
    assert train.data.metrics == {"train_loss": 0.5}
    assert train.data.tags.items() >= {**TAGS, "maskline.weights": "abc"}.items()
    assert trial.data.tags["mlflow.parentRunId"] == train.info.run_id
    assert (trial.data.params, trial.data.metrics) == ({"train.learning_rate": "0.2"}, {"val_pq": 0.2})
    history = tracking.Server(root).get_metric_history(train.info.run_id, "train_loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.75), (2, 0.5)]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_ends_as_the_training_did(root, error, status):
    def train() -> None:
        with monitor(root) as told:
            told.metrics({"train_loss": 1.0}, step=0)
            raise error

    with pytest.raises(error):
        train()
    assert runs(root)["train"].info.status == status


def test_training_does_not_depend_on_its_being_watched(root, caplog):
    (root / "mlflow.db").write_bytes(b"this is no database" * 100)
    start = time.monotonic()
    with monitor(root) as told:
        for step in range(1000):
            told.metrics({"train_loss": 1.0}, step=step)
        assert time.monotonic() - start < 1, "telling must cost nothing"
    assert time.monotonic() - start < 30
    assert "train: not tracked any more" in caplog.text
    assert "1000 points of run train were not tracked: MLflow at" in caplog.text


def points(root: Path, run: str, name: str) -> list[tuple[int, float]]:
    server = tracking.Server(root)
    return [(m.step, m.value) for m in server.get_metric_history(run, name)]


@pytest.mark.slow
def test_a_killed_driver_s_run_goes_on_as_the_same(root):
    """K04: points that it could not send are sent, steps that are trained again are told once."""
    code = """
import sqlite3, sys, time
from pathlib import Path
from pipelines.training.watching.monitor import Monitor
root = Path(sys.argv[1])
tags = {"maskline.stage": "train", "maskline.fingerprint": "f"}
with Monitor(root, root / "state", name="train", params={"seed": 3}, tags=tags) as told:
    told.child("trial-0", {"a": 1})
    for step in range(20):
        told.metrics({"loss": step / 4}, step=step)
    while told.spool.waiting():
        time.sleep(0.01)
    holder = sqlite3.connect(root / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")  # MLflow hears nothing of the rest
    for step in range(20, 30):
        told.metrics({"loss": step / 4}, step=step)
    print("said", flush=True)
    time.sleep(60)
"""
    killed = subprocess.Popen([sys.executable, "-c", code, root], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "said\n"
    killed.kill()
    killed.wait()
    assert {name: run.info.status for name, run in runs(root).items()} == {"train": "RUNNING", "trial-0": "RUNNING"}
    with monitor(root) as told:
        told.child("trial-0", {"a": 1})
        told.child("trial-1", {"a": 2})
        for step in range(15, 40):
            told.metrics({"loss": step / 4}, step=step)
        told.end("trial-0", "FAILED")
    found = runs(root)
    assert {name: run.info.status for name, run in found.items()} == {
        "train": "FINISHED",
        "trial-0": "FAILED",
        "trial-1": "FINISHED",
    }
    assert points(root, found["train"].info.run_id, "loss") == [(step, step / 4) for step in range(40)]


def test_another_training_is_another_run_and_the_dead_one_is_ended(root):
    with monitor(root) as told:
        told.metrics({"loss": 1.0}, step=0)
    (root / "state").rename(root / "old")
    with monitor(root) as told:
        told.metrics({"loss": 2.0}, step=0)
    server = tracking.Server(root)
    assert len(server.search_runs([server.experiment])) == 2


def test_a_database_that_is_held_delays_nobody(root):
    """K03"""
    with monitor(root) as told:
        told.metrics({"loss": 0.0}, step=0)
        wait_until(lambda: not told.spool.waiting())
        holder = sqlite3.connect(root / "mlflow.db", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        for step in range(1, 200):
            told.metrics({"loss": float(step)}, step=step)
        assert time.monotonic() - started < 5
        time.sleep(2)
        assert told.spool.waiting() == 199
        holder.execute("ROLLBACK")
    holder.close()
    assert points(root, runs(root)["train"].info.run_id, "loss") == [(step, float(step)) for step in range(200)]


def test_a_server_that_accepts_and_never_answers_delays_nobody(root, monkeypatch, caplog):
    monkeypatch.setattr("pipelines.training.watching.monitor.PATIENCE", 3.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with monitor(root) as told:
            started = time.monotonic()
            for step in range(1000):
                told.metrics({"loss": 1.0}, step=step)
            assert time.monotonic() - started < 5
            wait_until(lambda: told.away)
        assert time.monotonic() - started < 30
    assert "1000 points of run train were not tracked: MLflow at http://127.0.0.1" in caplog.text
    assert "what is to be tracked waits in" in caplog.text


def test_an_answer_that_is_no_is_not_asked_for_again(root, caplog):
    """A parameter that MLflow has with another value; a run that somebody has deleted meanwhile."""
    with monitor(root) as told:
        told.metrics({"loss": 1.0}, step=0)
        wait_until(lambda: not told.spool.waiting())
        tracking.Server(root).delete_run(runs(root)["train"].info.run_id)
        told.metrics({"loss": 1.0, "val_pq": 0.5}, step=1)
    assert not told.thread.is_alive(), "it has not waited for another answer"
    assert told.refused == 2
    assert "2 points of run train were not tracked" in caplog.text


def wait_until(holds: Any, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
