"""The line as its users run it: `dvc repro`, in a fresh copy of the project, on a small dataset."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(900)  # six stages, of which each starts libraries and Ray: minutes on a busy machine
STAGES = ["ingest", "validate", "tune", "train", "evaluate", "register"]
LOAD = """
import json, mlflow
from pathlib import Path
from pipelines.data.shards import ShardReader
mlflow.set_tracking_uri("sqlite:///mlflow.db")
versions = mlflow.MlflowClient().search_model_versions("")
model = mlflow.pyfunc.load_model(f"models:/{versions[0].name}@champion")
found = model.predict([ShardReader(Path("results/ingest"), "test")[0].image.tobytes()])
print(json.dumps({"rows": len(found), "versions": [v.version for v in versions]}))
"""


def weights(root: Path) -> str:
    return hashlib.sha256((root / "results/train/model.safetensors").read_bytes()).hexdigest()


def registry(project) -> dict:
    """What a user of the registry gets: versions, and a prediction of the champion from image bytes."""
    return json.loads(project.run(sys.executable, "-c", LOAD).stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def project(clone):
    made = clone()
    assert made.repro() == STAGES
    return made


def test_artifacts(project) -> None:
    metrics = json.loads((project.root / "results/evaluate/metrics.json").read_text())
    assert {"semantic", "instance", "panoptic", "dataset"} <= set(metrics)
    decision = json.loads((project.root / "results/register/decision.json").read_text())
    assert decision["decision"]["promoted"] is True
    for page in ("validate/report.html", "evaluate/report.html"):
        assert "</html>" in (project.root / "results" / page).read_text()
    for command in (["metrics", "show"], ["plots", "show"], ["params", "diff"], ["dag"]):
        project.run("dvc", *command)
    # Nothing but what the user chooses to commit is left in git's view.
    changed = project.run("git", "status", "--porcelain").stdout.split()
    assert set(changed) <= {"??", "dvc.lock", "dvc_plots/"}


def test_nothing_changed_runs_nothing(project) -> None:
    started = os.times()
    assert project.repro() == []
    spent = os.times()
    # CPU time of the command and its children: the clock of a busy machine says nothing. 1.8 s alone; tests that run
    # beside it on the other core cost it half as much again.
    assert spent.children_user + spent.children_system - started.children_user - started.children_system < 3.0


def test_register_again_is_still_one_version(project) -> None:
    assert project.repro("--force", "--single-item", "register") == ["register"]
    assert registry(project) == {"rows": 1, "versions": [1]}


def test_a_change_under_register_runs_register_only(project) -> None:
    project.set({"register.min_gain": 0.5})
    assert project.repro() == ["register"]
    assert registry(project)["versions"] == [1]
    # Back again: the run cache, which knows this state, says nothing of the registry.
    project.set({"register.min_gain": 0.0})
    assert project.repro() == ["register"]


def test_a_change_under_loss_runs_what_follows_from_it(project) -> None:
    project.set({"loss.semantic.cross_entropy.label_smoothing": 0.1})
    assert project.repro() == ["tune", "train", "evaluate", "register"]


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ("semantic", "unet"),
        pytest.param("semantic", "deeplabv3plus", marks=pytest.mark.slow),
        pytest.param("instance", "mask_rcnn", marks=pytest.mark.slow),
    ],
)
def test_another_task_and_model_by_parameters_alone(clone, task: str, model: str) -> None:
    other = clone({"task": task, "model.name": model})
    assert other.repro() == STAGES
    assert registry(other) == {"rows": 1, "versions": [1]}


@pytest.mark.slow
def test_two_clones_give_the_same_dataset_and_weights(project, clone) -> None:
    first, second = clone(), clone()
    for each in (first, second):
        each.repro("train")
    manifests = [json.loads((p.root / "results/ingest/dataset.json").read_text())["hash"] for p in (first, second)]
    assert manifests[0] == manifests[1]
    assert weights(first.root) == weights(second.root)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_line_goes_on_to_the_same_end(clone, stop: signal.Signals) -> None:
    """`dvc repro` is stopped again and again, wherever it stands; then it is let run."""
    undisturbed, disturbed = clone(), clone()
    undisturbed.repro("evaluate")
    for seconds in (2, 6, 14, 25):
        running = disturbed.start("dvc", "repro", "evaluate")
        time.sleep(seconds)
        if stop is signal.SIGINT:
            os.killpg(running.pid, stop)  # as a terminal does
        else:
            running.send_signal(stop)
        running.wait(timeout=120)
        for shards in disturbed.root.glob("results/ingest/dataset.json"):
            json.loads(shards.read_text())
    disturbed.repro("evaluate")
    assert weights(disturbed.root) == weights(undisturbed.root)
    metrics = [(p.root / "results/evaluate/metrics.json").read_text() for p in (disturbed, undisturbed)]
    assert metrics[0] == metrics[1]


def test_a_broken_dataset_stops_the_line(clone) -> None:
    broken = clone({"dataset.format": "folder", "dataset.root": "data/mine"})
    mine = broken.root / "data/mine"
    for name in ("images", "masks"):
        (mine / name).mkdir(parents=True)
        (mine / name / "a.png").write_bytes(b"<html>")
    (mine / "images/b.png").write_bytes(b"")
    (mine / "classes.yaml").write_text("- {name: sky}\n- {name: ground}\n")
    assert broken.run(sys.executable, "-m", "stages.ingest", ok=False).returncode == 2
    done = broken.run("dvc", "repro", ok=False)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in said
    assert "a.png" in said
    assert "b.png" in said
    assert [path.name for path in (broken.root / "results/ingest").iterdir()] == ["report.json"]


@pytest.mark.parametrize("stage", STAGES)
def test_wrong_parameters_are_refused_at_once(clone, stage: str) -> None:
    wrong = clone({"train.epochs": "4", "model.name": "unett", "loss.semantic.dice.weight": -1.0})
    started = os.times()
    done = wrong.run(sys.executable, "-m", f"stages.{stage}", ok=False)
    spent = os.times()
    assert done.returncode == 2
    assert spent.children_user + spent.children_system - started.children_user - started.children_system < 2.0
    assert "Traceback" not in done.stderr
    for said in ("train.epochs", "'unett'", "did you mean 'unet'?", "loss.semantic.dice.weight", "-1"):
        assert said in done.stderr
