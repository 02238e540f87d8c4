"""tune and train ask for the balance of their dataset before anything is started, and only where it is needed."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pipelines import config, files
from pipelines.data.shards import read_manifest
from pipelines.errors import DataError
from pipelines.stage import Paths
from stages import train, tune

SCHEME = "loss.semantic.cross_entropy.class_weights"


@pytest.fixture
def paths(small: Callable[..., dict[str, Any]], dataset: Path, tmp_path: Path) -> Callable[..., Paths]:
    """paths({"train.sampling": ...}) -> a project whose dataset is validated as another one."""

    def project(changes: dict[str, Any]) -> Paths:
        (tmp_path / "results/tune").mkdir(parents=True)
        (tmp_path / "results/ingest").symlink_to(dataset)
        (tmp_path / "results/tune/best.yaml").write_text("{}\n")
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(small("semantic", changes)))
        row = {"weights": {"inverse_frequency": 1.0}, "repeat_factor": 1.0}
        classes = [row] * len(read_manifest(dataset).classes)
        files.write_json(tmp_path / "results/validate/balance.json", {"dataset": "e" * 64, "classes": classes})
        return Paths(root=tmp_path, out=tmp_path / "out")

    return project


@pytest.mark.parametrize("stage", [tune, train])
@pytest.mark.parametrize("asks", [{SCHEME: "inverse_frequency"}, {"train.sampling": "repeat_factor"}])
def test_the_balance_of_another_dataset_is_refused(paths, stage: ModuleType, asks: dict[str, str]):
    made = paths(asks)
    with pytest.raises(DataError, match=r"balance\.json is of another dataset \(e{12}\)"):
        stage.run(config.load(made.root / "params.yaml"), made)


def test_a_candidate_that_asks_is_enough(paths):
    made = paths({"tune.space": {SCHEME: {"choice": ["inverse_frequency"]}}})
    with pytest.raises(DataError, match=r"balance\.json is of another dataset"):
        tune.run(config.load(made.root / "params.yaml"), made)
