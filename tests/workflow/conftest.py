"""A copy of the project, as a clone would be, with small parameters and its own git, DVC and MLflow."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import config

ROOT = Path(__file__).resolve().parents[2]
SMALL = {
    "dataset.splits": {"train": 24, "val": 6, "test": 6},
    "dataset.shapes.height": 64,
    "dataset.shapes.width": 64,
    "model.channels": 16,
    "tune.trials": 2,
    "tune.epochs": 1,
    "train.epochs": 2,
    "train.batch_size": 8,
    "train.augment.crop": [64, 64],
    "validate.min_class_pixels": 0,
    "validate.max_class_drift": 1.0,
    "register.floors": {},
}


@dataclass(frozen=True)
class Project:
    """The copy, and the commands that people run in it."""

    root: Path

    @property
    def env(self) -> dict[str, str]:
        own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
        hidden = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "PYTHONPATH")
        return {k: v for k, v in os.environ.items() if k not in hidden} | own

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.root, env=self.env, capture_output=True, text=True, check=False)
        assert not ok or done.returncode == 0, done.stdout + done.stderr
        return done

    def start(self, *command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def repro(self, *flags: str) -> list[str]:
        """`dvc repro`; the stages that ran."""
        return re.findall(r"Running stage '(\w+)'", self.run("dvc", "repro", *flags).stdout)

    def set(self, changes: Mapping[str, Any]) -> None:
        path = self.root / "params.yaml"
        path.write_text(yaml.safe_dump(config.merge(config.read(path), changes), sort_keys=False))


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """clone({"task": "semantic"}) -> a fresh project with small parameters."""

    def make(changes: Mapping[str, Any] | None = None) -> Project:
        project = Project(tmp_path_factory.mktemp("clone") / "maskline")
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name in listed.stdout.splitlines():
            if (source := ROOT / name).is_file():
                (project.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, project.root / name)
        (project.root / "dvc.lock").unlink(missing_ok=True)
        project.set({**SMALL, **(changes or {})})
        for command in (
            ["init", "-q"],
            ["add", "-A"],
            ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "start"],
        ):
            project.run("git", *command)
        return project

    return make
