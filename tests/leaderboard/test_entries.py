"""zoo.yaml: what is compared."""

from pathlib import Path

import pytest
import yaml

from pipelines import config
from pipelines.errors import ConfigError
from pipelines.leaderboard import entries

ROOT = Path(__file__).resolve().parents[2]
PARAMS = ROOT / "params.yaml"


def zoo(folder: Path, **sections) -> Path:
    path = folder / "zoo.yaml"
    raw = {"common": {"task": "semantic"}, "models": {"unet": {}}, **sections}
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


def test_the_repository_s_list_has_every_semantic_model_once():
    listed = entries.read(ROOT / "zoo.yaml", PARAMS)
    assert sorted(e.name for e in listed) == sorted(n for n, task in config.MODEL_TASKS.items() if task == "semantic")
    assert {e.raw["train"]["epochs"] for e in listed} == {listed[0].raw["train"]["epochs"]}, "one budget"
    assert {e.raw["tune"]["trials"] for e in listed} == {0}
    assert len({e.key for e in listed}) == len(listed)


def test_an_entry_is_the_file_with_its_changes(tmp_path):
    path = zoo(tmp_path, models={"unet": {"model.channels": 24}, "kmeans": {}})
    first, second = entries.read(path, PARAMS, dataset="elsewhere")
    assert first.raw["model"]["channels"] == 24
    assert first.raw["dataset"]["root"] == "elsewhere"
    wanted = config.merge(config.read(PARAMS), {"task": "semantic", "tune.trials": 0, "dataset.root": "elsewhere"})
    assert second.raw == config.merge(wanted, {"model.name": "kmeans"})
    assert first.key != entries.read(zoo(tmp_path), PARAMS, dataset="elsewhere")[0].key, "another result's place"


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"models": {"unnet": {}}}, "unnet: model.name: got 'unnet'.*did you mean 'unet'"),
        ({"models": {"unet": {"dataset.depth": 8}}}, "unet: dataset.depth is shared by all: set it in common"),
        ({"models": {"unet": {"train.epochs": 0}, "mask_rcnn": {}}}, "mask_rcnn: model.name: mask_rcnn does the inst"),
        ({"models": {}}, "models: names none"),
        ({"models": ["unet"]}, "models: input should be a valid dictionary"),
        ({"model": {}}, "model: extra inputs are not permitted"),
    ],
)
def test_what_is_wrong_is_said_of_all_entries_at_once(tmp_path, sections, said):
    with pytest.raises(ConfigError, match=said):
        entries.read(zoo(tmp_path, **sections), PARAMS)
