"""What MLflow is told of a training, and that training never waits for it."""

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking
from pipelines.training.monitor import Monitor

TAGS = {"maskline.stage": "train", "maskline.fingerprint": "f"}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def runs(root: Path) -> dict[str, Any]:
    server = tracking.Server(root)
    return {run.info.run_name: run for run in server.search_runs([server.experiment])}


def monitor(root: Path, **more: Any) -> Monitor:
    return Monitor(root, name="train", params={"seed": 3, "train": {"epochs": 2}}, tags=TAGS, **more)


def test_a_training_and_its_trials_are_told(root):
    children = {f"trial-{i}": {"train.learning_rate": rate} for i, rate in enumerate((0.1, 0.2))}
    with monitor(root, children=children) as told:
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
