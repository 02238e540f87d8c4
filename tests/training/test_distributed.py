"""Training on Ray, with what can happen to its processes."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipelines import files
from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.data.shards import ShardReader
from pipelines.errors import RunError
from pipelines.evaluation.evaluator import evaluate
from pipelines.inference import package
from pipelines.training import distributed
from pipelines.training.balance import Balance
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.result import RESULT

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def train(ray: None, small: Callable[..., dict[str, Any]], dataset: Path, tmp_path: Path) -> Callable[..., Path]:
    """train("first", {"train.epochs": 3}) -> the state folder of a job that two workers have finished."""

    def run(name: str, changes: dict[str, Any], data: Path = dataset, balance: Balance | None = None) -> Path:
        raw = small("semantic", {"train.workers": 2, **changes})
        distributed.train(raw, data=data, state=tmp_path / name, fingerprint="f", balance=balance)
        return tmp_path / name

    return run


def epochs(state: Path) -> list[int]:
    path = state / "events.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event["epoch"] for event in map(json.loads, lines) if event["kind"] == "epoch"]


def weights(state: Path) -> str:
    return str(package.describe(state / RESULT)["weights"]["sha256"])


def test_two_workers_leave_the_model_that_they_measured(train, dataset):
    state = train("a", {"train.epochs": 2, "train.learning_rate": 0.02})
    assert epochs(state) == [0, 1], "rank 0 speaks, and alone"
    description = package.describe(state / RESULT)
    found = evaluate(package.load(state / RESULT), ShardReader(dataset, "val"), batch_size=2)
    assert found["semantic"]["miou"] > 0
    assert description["metrics"] == {"val_miou": found["semantic"]["miou"]}


@pytest.mark.slow
def test_two_workers_take_their_shares_of_a_balanced_epoch(train):
    """A weight of 0 for all classes leaves no loss, which says that the weights have come to the workers."""
    changes = {
        "train.epochs": 1, "train.sampling": "repeat_factor", "loss.semantic.dice.weight": 0.0,
        "loss.semantic.cross_entropy.class_weights": "median_frequency",
        "loss.semantic.border_cross_entropy.weight": 1.0,
        "loss.semantic.border_cross_entropy.class_weights": "median_frequency",
    }  # fmt: skip
    nothing = Balance(class_weights={"median_frequency": [0.0] * 10}, repeat_factors=[2.0] * 10)
    state = train("a", changes, balance=nothing)
    events = [json.loads(line) for line in (state / "events.jsonl").read_text().splitlines()]
    assert next(e for e in events if e["kind"] == "step")["steps"] == 6
    assert [e["train_loss"] for e in events if e["kind"] == "epoch"] == [0.0]


def test_losses_are_counted_from_the_last_new_checkpoint(tmp_path, capsys):
    def written(name: str) -> None:
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "manifest.json").write_text("{}")

    written("step-00000003")
    losses = distributed._Losses(tmp_path, most=2)
    losses.count("worker 1")
    losses.count("worker 0")
    written("step-00000006")
    losses.count("worker 1")
    losses.count("worker 0")
    with pytest.raises(RunError, match=r"a worker was lost 3 times since the last checkpoint: worker 2"):
        losses.count("worker 2")
    said = capsys.readouterr().err.splitlines()
    assert [line.split("; restart ")[1][:6] for line in said] == ["1 of 2", "2 of 2", "1 of 2", "2 of 2"]


def workers() -> list[psutil.Process]:
    """This session's training processes."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.is_running() and "RayTrainWorker" in "".join(p.cmdline()[:1])]


@pytest.fixture
def kill() -> Iterator[Callable[..., None]]:
    """kill(state, after=[1, 3]) -> after these epochs a worker is killed, or has `by` done to it: each time another."""
    threads = []

    def start(state: Path, after: list[int], by: Callable[[psutil.Process], None] = psutil.Process.kill) -> None:
        def run() -> None:
            for epoch in after:
                while epoch not in epochs(state):
                    time.sleep(0.05)
                at_work = workers()
                by(at_work[epoch % len(at_work)])

        threads.append(threading.Thread(target=run, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(timeout=10)
        assert not thread.is_alive(), "training ended before it was disturbed"


@pytest.mark.slow
def test_a_killed_worker_costs_time_and_no_bit(train, kill, tmp_path, capfd):
    changes = {"train.epochs": 12, "train.optimizer": "adamw"}
    undisturbed = weights(train("undisturbed", changes))
    kill(tmp_path / "killed", after=[1, 4])
    state = train("killed", changes)
    assert weights(state) == undisturbed
    assert epochs(state)[-1] == 11
    said = capfd.readouterr().err
    assert said.count("train: lost ") == 2
    assert said.count("; restart 1 of 2 since the last checkpoint") == 2, "there was a new one between"


@pytest.mark.slow
def test_a_worker_that_stands_still_is_named_and_costs_no_bit(train, kill, tmp_path, capfd):
    changes = {"train.epochs": 8, "train.guards.hang_seconds": 3.0}
    undisturbed = weights(train("undisturbed", changes))
    kill(tmp_path / "stopped", after=[1], by=psutil.Process.suspend)
    state = train("stopped", changes)
    assert weights(state) == undisturbed
    assert capfd.readouterr().err.count("train: lost ") == 1
    events = [json.loads(line) for line in (state / "events.jsonl").read_text().splitlines()]
    (hang,) = (event for event in events if event["kind"] == "hang")
    assert re.search(r"rank [01] stands in \w+ of step \d+ since \d+ s .*rank [01] waits for it", hang["text"])


@pytest.mark.slow
def test_a_worker_that_is_lost_too_often_ends_the_run(train, kill, tmp_path):
    kill(tmp_path / "lost", after=[0])
    with pytest.raises(RunError, match=r"a worker was lost once (.|\n)*goes on from the last checkpoint"):
        train("lost", {"train.epochs": 50, "train.max_failures": 0})


@pytest.mark.slow
def test_a_bug_fails_at_once_and_with_its_cause(train, tmp_path, capfd):
    """A label that no class has: validation would have said so, had it been asked."""
    records = [shapes.draw(*item, seed=0, height=64, width=64, difficulty=0.3)
               for item in shapes.plan(splits={"train": 8, "val": 2, "test": 0})]  # fmt: skip
    wrong = records[3].semantic.copy()
    wrong[20:40] = 200
    records[3] = replace(records[3], semantic=wrong)
    few = tmp_path / "data"
    classes = [*shapes.classes(), *(replace(shapes.classes()[0], name=f"none {i}") for i in range(200))]
    shards.write(records, classes=classes, name="wrong", format="shapes", out=few, rows_per_shard=4)
    raw = json.loads((few / "dataset.json").read_text())
    raw.pop("checksum")
    raw["classes"], raw["pixels_per_class"] = raw["classes"][:10], raw["pixels_per_class"][:10]
    files.write_json(few / "dataset.json", {**raw, "checksum": files.digest(raw)})
    with pytest.raises(RunError, match=r"training failed on rank [01]: IndexError\('Target 200 is out of bounds"):
        train("wrong", {}, few)
    assert "lost" not in capfd.readouterr().err


@pytest.mark.slow
def test_an_interrupted_stage_goes_on_where_it_stood(small, dataset, tmp_path):
    """Terminated once, killed once: the third start ends with the weights of a run that nothing happened to."""

    def project(name: str) -> Path:
        root = tmp_path / name
        (root / "results" / "tune").mkdir(parents=True)
        (root / "results" / "ingest").symlink_to(dataset)
        (root / "results" / "tune" / "best.yaml").write_text("{}\n")
        raw = small("semantic", {"train.workers": 2, "train.epochs": 8})
        (root / "params.yaml").write_text(yaml.safe_dump(raw))
        return root

    def start(root: Path) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "DVC_STAGE")}
        command = [sys.executable, "-m", "stages.train"]
        return subprocess.Popen(
            command, cwd=root, env={**env, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True
        )

    def stop(process: subprocess.Popen[str], root: Path, by: signal.Signals, after: int) -> None:
        while not any(after in epochs(state) for state in (root / "runs").glob("train-*")):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        process.send_signal(by)

    def sha(root: Path) -> str:
        return files.sha256(root / "results" / "train" / "model.safetensors")

    plain, disturbed = project("plain"), project("disturbed")
    assert start(plain).wait(timeout=200) == 0
    first = start(disturbed)
    stop(first, disturbed, signal.SIGTERM, after=1)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 143, said
    assert "train: interrupted: saving a checkpoint first" in said
    (state,) = (disturbed / "runs").glob("train-*")
    events = [json.loads(line) for line in (state / "events.jsonl").read_text().splitlines()]
    last = max(event["step"] for event in events if event["kind"] == "step")
    assert Checkpoints(state / "checkpoints").entries()[-1].step >= last, "no update is lost"
    assert not (disturbed / "results" / "train").exists()
    second = start(disturbed)
    stop(second, disturbed, signal.SIGKILL, after=3)
    assert second.wait(timeout=60) == -signal.SIGKILL
    third = start(disturbed)
    _, said = third.communicate(timeout=200)
    assert third.returncode == 0, said
    assert sha(disturbed) == sha(plain)
    assert not list((disturbed / "runs").glob("train-*")), "state of a finished run is dropped"
