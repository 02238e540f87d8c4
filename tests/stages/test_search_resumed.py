"""tune, killed in the middle, twice: the third start accounts for every trial, and MLflow holds each once."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipelines import tracking
from pipelines.training.search.record import Journal

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 5


def start(root: Path) -> subprocess.Popen[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "DVC_STAGE")}
    python_path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-m", "stages.tune"],
        cwd=root,
        env={**env, "PYTHONPATH": python_path},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[str], root: Path, after: int) -> None:
    """The driver's whole group, once the trials have so many epochs behind them."""
    while sum(r.epochs for s in (root / "runs").glob("tune-*") for r in Journal(s / "journal").read().values()) < after:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL


def rows(root: Path) -> list[dict[str, str]]:
    with (root / "results" / "tune" / "trials.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_search_that_was_killed_goes_on_where_it_was(small, dataset, tmp_path):
    def project(name: str) -> Path:
        root = tmp_path / name
        (root / "results").mkdir(parents=True)
        (root / "results" / "ingest").symlink_to(dataset)
        space = {"train.learning_rate": {"loguniform": [0.001, 0.05]}}
        raw = small("semantic", {"tune.trials": TRIALS, "tune.epochs": 3, "tune.space": space})
        (root / "params.yaml").write_text(yaml.safe_dump(raw))
        return root

    plain, disturbed = project("plain"), project("disturbed")
    assert start(plain).wait(timeout=300) == 0
    kill(start(disturbed), disturbed, after=2)
    kill(start(disturbed), disturbed, after=6)
    third = start(disturbed)
    _, said = third.communicate(timeout=300)
    assert third.returncode == 0, said
    assert rows(disturbed) == rows(plain)
    for name in ("best.yaml", "trials.csv"):
        assert (disturbed / "results/tune" / name).read_bytes() == (plain / "results/tune" / name).read_bytes()
    assert not list((disturbed / "runs").glob("tune-*")), "state of a finished search is dropped"
    server = tracking.Server(disturbed)
    runs = [run.info.run_name for run in server.search_runs([server.experiment])]
    assert sorted(runs) == ["trial-0", "trial-1", "trial-2", "trial-3", "trial-4", "tune"], "each once"
