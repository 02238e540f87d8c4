"""A real MLflow server that is killed while a model trains, and comes back, or does not: K02 of the fault list.

The server is gone for five seconds; MASKLINE_TEST_GONE=60 makes it a minute.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import config, tracking
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import Group, Job, Row
from pipelines.training.loop import fit
from pipelines.training.validation import history
from pipelines.training.watching.events import Follower
from pipelines.training.watching.monitor import Monitor

GONE = float(os.environ.get("MASKLINE_TEST_GONE", "5"))
EPOCHS = 4


class MlflowServer:
    """`mlflow server` on loopback, in a process group of its own."""

    def __init__(self, folder: Path):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.folder, self.uri = folder, f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{self.folder}/server.db", "--no-serve-artifacts",
            "--default-artifact-root", str(self.folder / "artifacts"),
        ]  # fmt: skip
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:  # noqa: S310 - loopback
                return bool(answer.status == 200)
        except OSError:
            return False


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    found = MlflowServer(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", found.uri)
    found.start()
    end = time.monotonic() + 120
    while not found.answers():
        assert time.monotonic() < end, (tmp_path / "server.log").read_text()
        time.sleep(0.1)
    yield found
    found.kill()


@pytest.fixture
def job(dataset: Path, small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[[str], Job]:
    params = config.parse(small("semantic", {"train.epochs": EPOCHS}))
    return lambda name: Job(params=params, data=dataset, state=tmp_path / name)


def train(job: Job, root: Path, on_epoch: Callable[[Row], None]) -> float:
    """The training with its monitor, as the stage has them; the longest that it took to tell anything."""
    longest = 0.0

    def told(event: dict[str, Any]) -> None:
        nonlocal longest
        started = time.monotonic()
        if event["kind"] == "epoch":
            monitor.metrics({k: v for k, v in event.items() if k not in ("kind", "time")}, step=event["epoch"])
        elif event["kind"] == "step":
            monitor.metrics({"step_loss": event["loss"]}, step=event["step"])
        longest = max(longest, time.monotonic() - started)

    with (
        Monitor(root, job.state, name="train", params={"seed": 0}, tags={"maskline.stage": "train"}) as monitor,
        Follower(job.state / "events.jsonl", told),
    ):
        fit(job, Group(), on_epoch)
    return longest


def assert_same_weights(one: Job, two: Job) -> None:
    states = [Checkpoints(job.state / "checkpoints").last() for job in (one, two)]
    a, b = (state["model"] for state in states if state is not None)
    assert a.keys() == b.keys()
    assert all(a[name].equal(b[name]) for name in a)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_is_gone_for_a_while_misses_nothing(server, job, tmp_path):
    fit(job("undisturbed"), Group())
    back: list[threading.Timer] = []

    def on_epoch(row: Row) -> None:
        if row["epoch"] == 0:
            server.kill()
            back.append(threading.Timer(GONE, server.start))
            back[0].start()

    disturbed = job("disturbed")
    assert train(disturbed, tmp_path, on_epoch) < 5
    back[0].join()
    assert_same_weights(job("undisturbed"), disturbed)
    rows = history(disturbed.state)
    assert len(rows) == EPOCHS
    asked = tracking.Server(tmp_path)
    (run,) = asked.search_runs([asked.experiment])
    assert run.info.status == "FINISHED"
    for name in ("train_loss", "val_miou", "learning_rate"):
        points = [(m.step, m.value) for m in asked.get_metric_history(run.info.run_id, name)]
        assert points == [(row["epoch"], row[name]) for row in rows], name


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_server_that_never_comes_back_costs_its_points_alone(server, job, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("pipelines.training.watching.monitor.PATIENCE", 5.0)
    fit(job("undisturbed"), Group())
    disturbed = job("disturbed")
    assert train(disturbed, tmp_path, lambda row: server.kill() if row["epoch"] == 0 else None) < 5
    assert_same_weights(job("undisturbed"), disturbed)
    assert "points of run train were not tracked: MLflow at http://127.0.0.1" in caplog.text
    server.start()  # the next attempt of the same training finds what has waited
    with Monitor(tmp_path, disturbed.state, name="train", params={"seed": 0}, tags={}) as monitor:
        monitor.tag({"maskline.weights": "abc"})
        end = time.monotonic() + 120
        while monitor.spool.waiting():
            assert time.monotonic() < end
            time.sleep(0.1)
    asked = tracking.Server(tmp_path)
    (run,) = asked.search_runs([asked.experiment])
    assert (run.info.status, run.data.tags["maskline.weights"]) == ("FINISHED", "abc")
    steps = [m.step for m in asked.get_metric_history(run.info.run_id, "train_loss")]
    assert steps == list(range(EPOCHS))
