"""params.yaml: what is refused, and in which words; and the plain-value helpers around it."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import config
from pipelines.config.loss import SemanticLoss
from pipelines.config.model import ModelName
from pipelines.config.sections import FormatName
from pipelines.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
RAW = config.read(ROOT / "params.yaml")
CHOICES = {"choice": [0.1]}


def refusal(changes: dict[str, Any]) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.parse(config.merge(RAW, changes))
    return caught.value


def test_the_repository_s_parameters_are_accepted():
    params = config.load(ROOT / "params.yaml")
    assert (params.task, params.model.name) == ("panoptic", "panoptic_deeplab")


@dataclass(frozen=True)
class Fault:
    """One change that must be refused, and what must be said."""

    changes: dict[str, Any]
    said: str


def space(name: str, values: Any) -> dict[str, Any]:
    return {"tune.space": {name: values}}


FAULTS = {
    "unknown section": Fault({"trian": {}}, r"trian: unknown key, did you mean 'train'\? \(allowed: task, .*video\)"),
    "unknown key": Fault(
        {"train.epoch": 3}, r"train\.epoch: unknown key, did you mean 'epochs'\? \(allowed: epochs, b"
    ),
    "unknown key, deep": Fault(
        {"loss.semantic.focal.gama": 1.0},
        r"focal\.gama: unknown key, did you mean 'gamma'\? \(allowed: weight, class_weights, gamma\)",
    ),
    "unknown key, like nothing": Fault({"model.zzz": 1}, r"model\.zzz: unknown key \(allowed: name, "),
    "field name for alias": Fault({"validate_": 1}, r"validate_: unknown key, did you mean 'validate'\?"),
    "number as text": Fault({"train.epochs": "4"}, r"train\.epochs: must be a valid integer, got '4'"),
    "float as count": Fault({"train.epochs": 4.0}, r"train\.epochs: must be a valid integer, got 4\.0"),
    "truth as count": Fault({"seed": True}, r"seed: must be a valid integer, got True"),
    "section as value": Fault({"train": 3}, r"train: must be a valid dictionary .*got 3"),
    "nothing as section": Fault({"tune": None}, r"tune: must be a valid dictionary .*got None"),
    "below the range": Fault({"train.batch_size": 0}, r"train\.batch_size: must be greater than or equal to 1, got 0"),
    "above the range": Fault({"train.augment.flip": 1.5}, r"train\.augment\.flip: must be less than or equal to 1"),
    "unknown task": Fault(
        {"task": "panoptik"}, r"task: got 'panoptik', allowed: semantic, instance, panoptic, did you"
    ),
    "unknown model": Fault(
        {"model.name": "unnet"}, r"model\.name: got 'unnet', allowed: fcn32s, .*, did you mean 'unet'"
    ),
    "unknown format": Fault(
        {"dataset.format": "cocoa"}, r"dataset\.format: got 'cocoa', allowed: shapes, .*, did you mean 'coco'\?"
    ),
    "unknown loss": Fault(
        {"loss.semantic.dise": {"weight": 1.0}}, r"loss\.semantic\.dise: unknown key, did you mean 'd"
    ),
    "another task's model": Fault(
        {"model.name": "unet"}, r"model\.name: unet does the semantic task and task is panopt"
    ),
    "a CRF to train behind no network": Fault(
        {"task": "semantic", "model.name": "kmeans", "model.crf.iterations": 5},
        r"model\.crf\.iterations: a CRF is trained behind scores of pixels, and kmeans gives none: set it to 0",
    ),
    "another task's inference": Fault(
        {"evaluate.inference.flip": True, "evaluate.inference.scales": [0.5, 1.0]},
        r"evaluate\.inference\.scales, evaluate\.inference\.flip: for task semantic only, and task is panoptic",
    ),
    "negative weight": Fault({"loss.semantic.dice.weight": -1.0}, r"dice\.weight: must be greater than or equal to 0"),
    "no loss": Fault(
        {"loss.semantic": {"lovasz": {"weight": 0.0}}},
        r"loss\.semantic: all weights are 0: give at least one loss a weig",
    ),
    "no loss named": Fault({"loss.semantic": {}}, r"loss\.semantic: all weights are 0"),
    "no root": Fault({"dataset.root": ""}, r"dataset\.root: .*have at least 1 character, got ''"),
    "half an image": Fault({"dataset.splits.val": 0.1}, r"dataset\.splits: must be whole numbers of images"),
    "no images": Fault({"dataset.splits": dict.fromkeys(("train", "val", "test"), 0)}, r"splits: must not all be 0"),
    "batch over workers": Fault(
        {"train.batch_size": 16, "train.workers": 3}, r"train\.workers: train\.batch_size 16 is not a multiple of 3"
    ),
    "scale reversed": Fault({"train.augment.scale": [1.2, 0.8]}, r"augment\.scale: must be \[smallest, largest\], got"),
    "crop of one": Fault({"train.augment.crop": [64]}, r"train\.augment\.crop: .*at least 2 items"),
    "register name": Fault({"register.name": "../champion"}, r"register\.name: .*got '\.\./champion'"),
    "space: no such name": Fault(space("train.lr", CHOICES), r"tune\.space\.train\.lr: no such parameter"),
    "space: near a name": Fault(space("train.learning_rat", CHOICES), r"did you mean 'train\.learning_rate'\?"),
    "space: a section": Fault(space("train.augment", CHOICES), r"tune\.space\.train\.augment: no such parameter"),
    "space: not searched": Fault(
        space("dataset.root", CHOICES), r"space\.dataset\.root: no such .*\(model, loss and tra"
    ),
    "space: set by tune": Fault(space("train.epochs", {"choice": [4]}), r"space\.train\.epochs: no such parameter"),
    "space: kind": Fault(
        space("train.warmup", {"normal": [0, 1]}), r"got 'normal', allowed: choice, uniform, loguniform"
    ),
    "space: two kinds": Fault(
        space("train.warmup", {"choice": [0.1], "uniform": [0.0, 1.0]}),
        r"warmup must have exactly one of choice, unifor",
    ),
    "space: nothing": Fault(space("train.warmup", {"choice": []}), r"train\.warmup\.choice must not be empty"),
    "space: reversed": Fault(
        space("train.warmup", {"uniform": [1, 0]}), r"warmup\.uniform must be \[low, high\] with low"
    ),
    "space: one bound": Fault(space("train.warmup", {"uniform": [1]}), r"warmup\.uniform must be \[low, high\]"),
    "space: log of 0": Fault(space("train.warmup", {"loguniform": [0, 1]}), r"with low < high above 0, got \[0, 1\]"),
    "space: refused value": Fault(
        space("train.warmup", {"choice": [0.1, 2.0]}),
        r"tune\.space\.train\.warmup: train\.warmup: must be less than or e",
    ),
    "space: refused bound": Fault(
        space("train.warmup", {"uniform": [0, 2]}), r"train\.warmup: must be less than or equal"
    ),
    "space: whole numbers": Fault(
        space("train.batch_size", {"uniform": [8, 16]}),
        r"tune\.space\.train\.batch_size: .*must be a valid integer, got 8",
    ),
    "space: another task": Fault(
        space("model.name", {"choice": ["unet", "panoptic_deeplab"]}),
        r"tune\.space\.model\.name: .*unet does the semant",
    ),
    "space: step of a choice": Fault(
        space("train.warmup", {"choice": [0.1], "step": 1}), r"warmup\.step is for uniform and integer, not for choice"
    ),
    "space: half a step": Fault(
        space("train.patience", {"integer": [0, 4], "step": 0.5}), r"patience\.step must be a number above 0, and whole"
    ),
    "space: no list": Fault(space("train.warmup", {"uniform": 3}), r"warmup\.uniform must be a list, got 3"),
    "space: whole range": Fault(
        space("train.patience", {"integer": [0.5, 4]}), r"patience\.integer must be \[low, high\] of whole numbers"
    ),
    "space: when of nothing": Fault(
        space("train.warmup", {"choice": [0.1], "when": {"train.optimizer": "sgd"}}),
        r"train\.warmup\.when\.train\.optimizer: names no `choice` of tune\.space \(allowed: none is there\)",
    ),
    "space: when never": Fault(
        {
            "tune.space": {
                "train.optimizer": {"choice": ["adamw", "sgd"]},
                "train.warmup": {"choice": [0.1], "when": {"train.optimizer": "adam"}},
            }
        },
        r"train\.warmup\.when\.train\.optimizer: got 'adam', allowed: adamw, sgd",
    ),
    "space: when in a circle": Fault(
        {
            "tune.space": {
                "train.optimizer": {"choice": ["sgd"], "when": {"train.schedule": "poly"}},
                "train.schedule": {"choice": ["poly"], "when": {"train.optimizer": "sgd"}},
            }
        },
        r"their `when` go in a circle",
    ),
    "halving what is drawn one by one": Fault(
        {"tune.sampler": "tpe"}, r"tune: scheduler halving holds all candidates against each other, and sampler tpe"
    ),
    "a population of what is fixed": Fault(
        {"tune.scheduler": "pbt", "tune.space": {"model.channels": {"choice": [32, 64]}}},
        r"tune: scheduler pbt changes values while it trains, and model\.channels cannot change",
    ),
    "a grid without an end": Fault(
        {"tune.sampler": "grid"}, r"sampler grid needs a choice, an integer or a step: train\.learning_rate, "
    ),
    "a grid that does not fit": Fault(
        {"tune.sampler": "grid", "tune.space": {"train.patience": {"integer": [0, 9]}}},
        r"the grid has 10 points and tune\.trials is 4: raise it",
    ),
    "choices for numbers": Fault(
        {
            "tune.sampler": "cmaes",
            "tune.scheduler": "asha",
            "tune.space": {"train.optimizer": {"choice": ["adamw", "sgd"]}},
        },
        r"sampler cmaes knows numbers only, and train\.optimizer is a choice",
    ),
    "halving two objectives": Fault(
        {"tune.objectives": ["score", "latency"]}, r"scheduler halving looks at the score alone"
    ),
    "a bound of nothing": Fault({"tune.max_latency": 5.0}, r"add latency to tune\.objectives"),
    "grace beyond the end": Fault({"tune.grace_epochs": 3}, r"grace_epochs 3 is more than tune\.epochs 2"),
    "space: splits the batch": Fault(
        space("train.batch_size", {"choice": [8, 7]}),
        r"tune\.space\.train\.batch_size: .*7 is not a multiple of 2 worker",
    ),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_what_is_wrong_is_refused_and_said(fault):
    error = refusal(fault.changes)
    assert error.exit_code == 2
    assert any(re.search(fault.said, line) for line in error.faults), error
    assert "do: mend params.yaml" in str(error)


# Where an infinite number would pass one comparison or the other.
NUMBERS = [
    "dataset.splits.train", "dataset.shapes.difficulty", "loss.semantic.dice.weight", "loss.semantic.focal.gamma",
    "loss.semantic.cross_entropy.label_smoothing", "loss.terms.center", "validate.max_ignored", "train.learning_rate",
    "train.weight_decay", "train.warmup", "train.clip_norm", "train.augment.flip", "register.min_gain",
    "register.floors.panoptic.pq",
]  # fmt: skip


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_number_is_infinite_or_none_at_all(name, value):
    changes = {"register.floors": {"panoptic.pq": value}} if name.startswith("register.floors") else {name: value}
    assert any(fault.startswith(name) for fault in refusal(changes).faults)


FREE = ("tune.space.", "register.floors.")  # their keys are the user's


@pytest.mark.parametrize("name", [name for name in config.flatten(RAW) if not name.startswith(FREE)])
def test_every_key_must_be_there(name):
    section, _, key = name.rpartition(".")
    raw = config.merge(RAW, {})
    del (config.get(raw, section) if section else raw)[key]
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}: missing"):
        config.parse(raw)


def test_all_faults_come_in_one_message():
    together = {
        "task": "semantic",
        "train.epoch": 3,
        "train.workers": 3,
        "model.encoder": 4,
        "dataset.splits.val": -1,
        "loss.semantic.focal.gama": 1.0,
        "tune.space": {"train.warmup": {"uniform": [1, 0]}},
    }
    error = refusal(together)
    for name in (
        "model.name",
        "train.epoch",
        "train.workers",
        "model.encoder",
        "splits.val",
        "focal.gama",
        "tune.space",
    ):
        assert sum(name in fault for fault in error.faults) >= 1, name
    assert str(error).startswith(f"params.yaml: {len(error.faults)} faults")


def test_a_message_stays_short_whatever_is_in_the_file():
    bomb: list[Any] = ["lol"]
    for _ in range(40):
        bomb = [bomb] * 9
    many = {f"key{i}": 1 for i in range(500)}
    error = refusal({"seed": bomb, "task": bomb, **many})
    assert error.faults[-1] == "and 482 more"
    assert len(str(error)) < 10_000


def read(tmp_path: Path, text: str) -> dict[str, Any]:
    (tmp_path / "params.yaml").write_text(text)
    return config.read(tmp_path / "params.yaml")


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "+1e-04", "0.0001", "10_0e-6"])
def test_a_number_without_a_point_is_a_number(tmp_path, text):
    assert read(tmp_path, f"rate: {text}") == {"rate": 1e-4}


def test_words_that_look_like_numbers_stay_words(tmp_path):
    assert read(tmp_path, "a: [1e, e4, '1e-4', 1e-4x, v1.0]") == {"a": ["1e", "e4", "1e-4", "1e-4x", "v1.0"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: 1\nseed: 2", "the key 'seed' is there twice"),
        ("train: {epochs: 1, batch_size: 2, epochs: 3}", "the key 'epochs' is there twice"),
        ("- a\n- b", "must hold sections, got list"),
        ("", "must hold sections, got NoneType"),
        ("seed: [", "is not valid YAML"),
        ("a: b: c", "is not valid YAML"),
        ("? [a, b]\n: c", "is not valid YAML"),
        ("? {a: b}\n: c", "is not valid YAML"),
        ("day: 2020-99-99", "is not valid YAML"),
        ("day: !!timestamp noon", "is not valid YAML"),
        ("count: !!int many", "is not valid YAML"),
        ("a: \x00", "is not valid YAML"),
        ("[" * 5000, "is not valid YAML"),
        ("a: !!python/object/apply:os.mkdir [executed]", "is not valid YAML: could not determine a constructor"),
        ("a: !!python/name:os.system", "is not valid YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_parameter_file_is_refused(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=re.escape(said)):
        read(tmp_path, text)
    assert not (tmp_path / "executed").exists()


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"params\.yaml is missing\ndo: run from the folder that holds it"):
        config.read(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match=r"best\.yaml is missing\ndo: dvc repro tune"):
        config.read(tmp_path / "results" / "tune" / "best.yaml")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder cannot be read: Is a directory"):
        config.read(tmp_path / "folder")
    (tmp_path / "latin").write_bytes(b"a: \xff\xfe")
    with pytest.raises(ConfigError, match="is not valid YAML"):
        config.read(tmp_path / "latin")


KEYS = st.text(st.characters(exclude_characters="."), min_size=1, max_size=3)
LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.integers(), max_size=2)
NESTED = st.recursive(
    st.dictionaries(KEYS, LEAVES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(KEYS, LEAVES | inner, min_size=1, max_size=3),
    max_leaves=12,
)


@given(NESTED)
def test_dotted_names_and_sections_say_the_same(raw):
    flat = config.flatten(raw)
    assert config.nest(flat) == raw
    assert all(config.get(raw, name) == value for name, value in flat.items())
    assert config.merge(raw, flat) == raw


@given(NESTED, st.data())
def test_merging_sets_what_is_named_and_nothing_else(raw, data):
    flat = config.flatten(raw)
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(flat)), LEAVES))
    merged = config.merge(raw, changes)
    assert config.flatten(merged) == {**flat, **changes}
    assert config.flatten(raw) == flat, "the argument was changed"


def test_what_the_search_found_goes_over_the_file(tmp_path):
    best = tmp_path / "best.yaml"
    best.write_text("train: {learning_rate: 1e-3}\nloss: {semantic: {dice: {weight: 0.25}}}\n")
    merged = config.with_overrides(RAW, best)
    assert config.flatten(merged) == {
        **config.flatten(RAW), "train.learning_rate": 1e-3, "loss.semantic.dice.weight": 0.25
    }  # fmt: skip
    best.write_text("{}\n")
    assert config.with_overrides(RAW, best) == RAW


def test_a_search_result_that_does_not_fit_is_refused(tmp_path):
    (tmp_path / "best.yaml").write_text("trane: {learning_rate: 1e-3}\ntrain: {epochs: {many: 1}}\n")
    with pytest.raises(ConfigError, match=r"train\.epochs: must be(.|\n)*trane: unknown key, did you mean 'train'"):
        config.parse(config.with_overrides(RAW, tmp_path / "best.yaml"))


def test_parameters_are_read_without_torch():
    code = "import pipelines.config, pipelines.stage, sys; assert not {'torch', 'ray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_tables_here_and_beside_torch_are_the_same():
    from pipelines.data.formats import FORMATS
    from pipelines.evaluation.evaluator import VIEWS
    from pipelines.losses import LOSSES
    from pipelines.models import MODELS

    assert {name: spec.task for name, spec in MODELS.items()} == config.MODEL_TASKS
    assert set(get_args(ModelName)) == set(MODELS)
    assert set(get_args(FormatName)) == set(FORMATS)
    assert set(SemanticLoss.model_fields) == set(LOSSES)
    assert set(config.HEADLINE) == set(get_args(config.Task)) == set(VIEWS)
