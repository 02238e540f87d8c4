"""What is drawn, against what was asked for."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import config
from pipelines.config import space as spaces
from pipelines.training.search.draws import draw, tidy
from pipelines.training.search.samplers import candidates

RAW = config.read(Path(__file__).resolve().parents[3] / "params.yaml")
SPACE: dict[str, Any] = {
    "train.learning_rate": {"loguniform": [1e-3, 1e-1]},
    "train.weight_decay": {"uniform": [0, 1]},
    "train.optimizer": {"choice": ["adamw", "sgd"]},
    "train.clip_norm": {"choice": [0, 1.23456789]},
    "train.augment.crop": {"choice": [[64, 64], [32, 96]]},
    "model.channels": {"loginteger": [16, 256]},
    "train.ema": {"uniform": [0.0, 0.9], "step": 0.3, "when": {"train.optimizer": "sgd"}},
    "train.patience": {"integer": [0, 7]},
}


def drawn(space: dict[str, Any], trials: int, seed: int = 0) -> list[dict[str, Any]]:
    return candidates(RAW, spaces.read(space), trials=trials, seed=seed)


def test_the_first_candidate_is_what_the_file_says():
    (first,) = drawn(SPACE, 1)
    assert first == {name: config.get(RAW, name) for name in SPACE if name != "train.ema"}, "which matters to sgd alone"


@given(st.integers(0, 2**31 - 1))
def test_candidates_are_a_function_of_the_seed(seed):
    found = drawn(SPACE, 6, seed)
    assert found == drawn(SPACE, 6, seed)
    assert found[:3] == drawn(SPACE, 3, seed), "a longer search begins as a shorter one"
    assert found[1:] != drawn(SPACE, 6, (seed + 1) % 2**31)[1:]


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1.0), st.sampled_from(["uniform", "loguniform"]), st.integers(0, 1000))
def test_what_is_drawn_lies_in_its_range_however_narrow(low, width, kind, seed):
    high = low * (1 + width)
    assert all(
        low <= c["train.clip_norm"] <= high for c in drawn({"train.clip_norm": {kind: [low, high]}}, 8, seed)[1:]
    )


@given(st.integers(1, 50), st.integers(1, 50), st.sampled_from(["integer", "loginteger"]), st.integers(0, 1000))
def test_whole_numbers_are_whole_and_the_ends_belong_to_them(low, width, kind, seed):
    range_ = spaces.read({"x": {kind: [low, low + width]}})["x"]
    random = np.random.default_rng(seed)
    values = [draw({"x": range_}, random)["x"] for _ in range(20)]
    assert all(type(v) is int and low <= v <= low + width for v in values)
    assert [tidy(range_, v) for v in (low - 9, low, low + width, low + width + 9)] == [
        low,
        low,
        low + width,
        low + width,
    ]


def test_each_value_is_as_likely_as_the_others():
    found = drawn(SPACE, 801)[1:]
    rates = [c["train.learning_rate"] for c in found]
    assert sum(rate < 1e-2 for rate in rates) == pytest.approx(400, abs=60), "half of them in the lower decade"
    assert all(float(f"{rate:.4g}") == rate for rate in rates), "what best.yaml says is what was run"
    channels = [c["model.channels"] for c in found]
    assert sum(c < 64 for c in channels) == pytest.approx(400, abs=60), "half of them in the lower two octaves"
    patience = np.bincount([c["train.patience"] for c in found], minlength=8)
    assert patience == pytest.approx(np.full(8, 100), abs=40)
    for name in ("train.optimizer", "train.clip_norm", "train.augment.crop"):
        values = SPACE[name]["choice"]
        counts = [sum(c[name] == value for c in found) for value in values]
        assert counts == pytest.approx([800 / len(values)] * len(values), abs=60)


def test_what_does_not_matter_is_not_drawn():
    found = drawn(SPACE, 200)[1:]
    assert all(("train.ema" in c) == (c["train.optimizer"] == "sgd") for c in found)
    assert {c["train.ema"] for c in found if "train.ema" in c} == {0.0, 0.3, 0.6, 0.9}
    deeper = SPACE | {"train.patience": {"choice": [0, 1], "when": {"train.optimizer": ["sgd"]}}}
    deeper["train.warmup"] = {"choice": [0.1], "when": {"train.patience": [1]}}
    assert all(
        ("train.warmup" in c) == (c["train.optimizer"] == "sgd" and c["train.patience"] == 1)
        for c in drawn(deeper, 100)[1:]
    )


def test_a_grid_is_every_combination_once():
    space = spaces.read(
        {
            "b": {"integer": [1, 5], "step": 2, "when": {"a": ["x", "y"]}},
            "a": {"choice": ["x", "y", "z"]},
            "c": {"uniform": [0, 0.3], "step": 0.1},
        }
    )
    by_hand = [
        {"a": a, "c": c} | ({"b": b} if b is not None else {})
        for a, c in itertools.product("xyz", [0.0, 0.1, 0.2, 0.3])
        for b in ([None] if a == "z" else [1, 3, 5])
    ]
    found = spaces.grid(space)
    assert sorted(map(str, (sorted(p.items()) for p in found))) == sorted(
        map(str, (sorted(p.items()) for p in by_hand))
    )


@given(st.integers(0, 1000))
def test_every_candidate_is_accepted_as_parameters(seed):
    for changes in drawn(SPACE, 4, seed):
        config.parse(config.merge(RAW, changes))
