"""Every model that is trained has a recipe, every recipe is one that can be run, and nothing else in the file moves."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines import config, recipes
from pipelines.config.edit import edit, written
from pipelines.errors import ConfigError
from pipelines.models import MODELS

ROOT = Path(__file__).resolve().parents[1]
LEARNING = sorted(name for name in MODELS if name not in config.CLASSICAL)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    return tmp_path


def test_each_model_that_is_trained_has_one():
    assert recipes.names(ROOT) == LEARNING


@pytest.mark.parametrize("name", LEARNING)
def test_a_recipe_is_applied_and_nothing_else_moves(name, project):
    path = project / "params.yaml"
    old, before = path.read_text().splitlines(), config.read(path)
    recipes.apply(project, name)
    recipe, new = config.read(ROOT / "recipes" / f"{name}.yaml"), path.read_text().splitlines()
    assert config.read(path) == config.merge(before, recipe)
    assert (recipe["task"], recipe["model.name"]) == (MODELS[name].task, name)
    leaves = {key.rsplit(".", 1)[-1] for key in recipe}
    for a, b in zip(old, new, strict=True):
        assert a == b or (a.partition("#")[2] == b.partition("#")[2] and any(f"{leaf}: " in a for leaf in leaves))


@pytest.mark.parametrize("name", LEARNING)
def test_a_recipe_says_where_it_is_from(name):
    head = (ROOT / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").split("\n\n")[0]
    assert MODELS[name].paper in head
    assert "\n# Rescaled: " in head
    assert all(line.startswith("# ") and len(line) <= 120 for line in head.splitlines())


def test_applying_it_again_changes_nothing(project):
    assert recipes.apply(project, "mask2former")
    once = (project / "params.yaml").read_bytes()
    assert not [line for line in recipes.apply(project, "mask2former") if "->" in line]
    assert (project / "params.yaml").read_bytes() == once


def test_a_recipe_leaves_nothing_of_another_one(project):
    shared = ("train.", "loss.semantic.", "loss.terms.semantic", "model.encoder", "model.weights", "model.channels")
    unused = tuple(f"loss.semantic.{loss}." for loss in ("border_cross_entropy", "ohem"))  # their options may differ

    def relevant() -> dict[str, object]:
        found = config.flatten(config.read(project / "params.yaml"))
        weights = {key: value for key, value in found.items() if key.startswith(unused) and key.endswith(".weight")}
        return weights | {k: v for k, v in found.items() if k.startswith(shared) and not k.startswith(unused)}

    recipes.apply(project, "pspnet")
    alone = relevant()
    for name in ("unet", "unetplusplus", "segnet", "ddrnet23_slim", "panoptic_deeplab", "panoptic_fpn", "solo"):
        recipes.apply(project, name)
    recipes.apply(project, "pspnet")
    assert relevant() == alone


def test_a_name_that_is_nearly_one_is_understood(project):
    with pytest.raises(ConfigError, match=r"no recipe for 'mask2fromer', did you mean 'mask2former'\?"):
        recipes.apply(project, "mask2fromer")


def test_what_could_not_be_run_is_not_written(project):
    path = project / "params.yaml"
    path.write_text(edit(path.read_text(), {"train.workers": 7, "train.batch_size": 7}))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"params.yaml with recipes/unet.yaml over it"):
        recipes.apply(project, "unet")
    assert path.read_bytes() == before


def test_the_command_lists_and_applies(project):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.recipes", *arguments]
        return subprocess.run(command, cwd=project, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)

    listed = run("--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == LEARNING
    applied = run("mask2former")
    assert applied.returncode == 0
    assert "train.clip_norm: 5.0 -> 0.01" in applied.stdout
    assert "note: tune.space searches train.learning_rate" in applied.stdout
    wrong = run("mask2fromer")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "Traceback" not in wrong.stderr


@pytest.mark.parametrize("value", [0.0, 6e-5, 1e-10, True, None, "none", "0.1", [512, 1024], [[1, 2], []], "a: b # c"])
def test_a_value_is_read_as_it_was_written(value, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a:  # first\n  b: [1,\n    2]   # second\n  c: {d: null, e: 'x'}\nf: 3  # third\n")
    path.write_text(edit(path.read_text(), {"a.b": value, "a.c.e": value, "f": value}))
    assert config.read(path) == {"a": {"b": value, "c": {"d": None, "e": value}}, "f": value}
    assert path.read_text().count("# first") == path.read_text().count("# third") == 1
    assert yaml.safe_load(written(value)) == value or isinstance(value, float)


def test_a_comment_keeps_its_column_where_there_is_room():
    text = "a: 1        # one\nb: 22 # two\n"
    assert edit(text, {"a": 1000, "b": 3}) == "a: 1000     # one\nb: 3  # two\n"
    assert edit(text, {"a": 12345678901}) == "a: 12345678901 # one\nb: 22 # two\n"


def test_a_place_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"train\.epoch: no such parameter, did you mean 'train\.epochs'\?"):
        edit("train:\n  epochs: 1\n", {"train.epoch": 2})
