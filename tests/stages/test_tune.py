"""tune leaves out a search that could change nothing."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import config
from pipelines.errors import DataError
from pipelines.stage import Paths
from stages import tune


@pytest.fixture
def paths(small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., Paths]:
    """paths({"model.name": ...}) -> a project that has no dataset: whoever asks for one is refused."""

    def project(changes: dict[str, Any]) -> Paths:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(small("semantic", changes)))
        return Paths(root=tmp_path, out=tmp_path / "out")

    return project


SPACE = {"train.learning_rate": {"loguniform": [0.001, 0.01]}, "loss.semantic.dice.weight": {"uniform": [0.5, 2.0]}}


@pytest.mark.parametrize("name", config.CLASSICAL)
def test_what_is_not_trained_is_not_searched(paths, name):
    made = paths({"model.name": name, "tune.space": SPACE})
    summary = tune.run(config.load(made.root / "params.yaml"), made)
    assert summary["trials"] == 0
    assert f"{name} is not trained" in summary["because"]
    assert yaml.safe_load((made.out / "best.yaml").read_text()) == {}
    with (made.out / "trials.csv").open() as file:
        assert list(csv.reader(file)) == [["trial", "score", "epochs", "error", "status", "latency", "front", "notes"]]


@pytest.mark.parametrize("changes", [{"model.name": "unet"}, {"tune.space": {"model.fit_images": {"choice": [8, 16]}}}])
def test_all_else_is(paths, changes):
    made = paths({"model.name": "threshold", "tune.space": SPACE, **changes})
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        tune.run(config.load(made.root / "params.yaml"), made)
