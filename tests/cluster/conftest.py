"""Projects that stages are run in, and clusters of several nodes on loopback to run them on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


class Project:
    """A folder as `ingest` and `validate` leave it."""

    def __init__(self, root: Path, dataset: Path, raw: dict[str, Any]):
        self.root = root
        (root / "results" / "tune").mkdir(parents=True)
        (root / "results" / "ingest").symlink_to(dataset)
        (root / "results" / "tune" / "best.yaml").write_text("{}\n")
        (root / "params.yaml").write_text(yaml.safe_dump(raw))

    def start(self, stage: str, address: str = "") -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "DVC_STAGE")}
        env |= {"PYTHONPATH": str(ROOT)} | ({"RAY_ADDRESS": address} if address else {})
        command = [sys.executable, "-m", f"stages.{stage}"]
        return subprocess.Popen(command, cwd=self.root, env=env, stderr=subprocess.PIPE, text=True)

    def run(self, stage: str, address: str = "") -> str:
        """What it says on its way to a good end."""
        process = self.start(stage, address)
        _, said = process.communicate(timeout=400)
        assert process.returncode == 0, said
        return said

    def epochs(self) -> list[int]:
        """Those that the run under way has said to be done."""
        logs = [path.read_text().splitlines() for path in self.root.glob("runs/train-*/events.jsonl")]
        events = [json.loads(line) for lines in logs for line in lines if line.endswith("}")]
        return [event["epoch"] for event in events if event["kind"] == "epoch"]

    def until(self, process: subprocess.Popen[str], epochs: int) -> None:
        deadline = time.monotonic() + 200
        while len(self.epochs()) < epochs:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def history(self) -> list[str]:
        return (self.root / "results" / "train" / "history.csv").read_text().splitlines()

    def described(self) -> dict[str, Any]:
        return json.loads((self.root / "results" / "train" / "model.json").read_text())


@pytest.fixture
def project(tmp_path: Path, dataset: Path, small: Callable[..., dict[str, Any]]) -> Callable[..., Project]:
    """project("plain", {"train.epochs": 3})"""

    def make(name: str, changes: dict[str, Any]) -> Project:
        return Project(tmp_path / name, dataset, small("semantic", {"train.workers": 2, **changes}))

    return make


@pytest.fixture
def cluster_of() -> Iterator[Callable[..., Any]]:
    """cluster_of(1, 1): two nodes with a CPU each, the first of them the head."""
    from tests.cluster import nodes

    started: list[Any] = []

    def start(*cpus: int, **head: Any) -> Any:
        started.append(nodes.start(*cpus, **head))
        return started[-1]

    yield start
    for cluster in started:
        cluster.shutdown()
