"""Optuna's samplers: against Optuna itself, and told again after a kill."""

from typing import Any

import optuna
import pytest

from pipelines.config import space as spaces
from pipelines.training.search.learned import Learned

SPACE: dict[str, Any] = {
    "rate": {"loguniform": [1e-4, 1e-1]},
    "kind": {"choice": ["adamw", "sgd"]},
    "crop": {"choice": [[64, 64], [32, 96]]},
    "momentum": {"uniform": [0.0, 0.9], "step": 0.1, "when": {"kind": "sgd"}},
    "layers": {"integer": [1, 9]},
    "width": {"loginteger": [8, 128]},
}
NUMBERS = {name: SPACE[name] for name in ("rate", "layers", "width")}
FIRST = {"rate": 0.01, "kind": "adamw", "crop": [64, 64], "layers": 3, "width": 16}


def sampler(name: str, directions: int = 1, seed: int = 0) -> Learned:
    space = NUMBERS if name == "cmaes" else SPACE
    first = {k: v for k, v in FIRST.items() if k in space}
    ways = ["maximize", "minimize"][:directions]
    return Learned(name, spaces.read(space), first=first, trials=24, seed=seed, directions=ways)


def quality(values: dict[str, Any]) -> float:
    return -abs(values["layers"] - 7) - (values.get("kind") == "sgd") - abs(values["width"] - 100) / 50


def play(asked: Learned, directions: int, trials: int = 12) -> list[tuple[int, dict[str, Any], list[float] | None]]:
    """Two at a time; every fifth fails."""
    story, open_ = [], []
    for number in range(trials):
        open_.append((number, asked.ask(number)))
        if len(open_) == 2:
            n, values = open_.pop(0)
            told = None if n % 5 == 4 else [quality(values), values["width"] / 10][:directions]
            asked.tell(n, told)
            story.append((n, values, told))
    return story


@pytest.mark.parametrize(("name", "directions"), [("tpe", 1), ("tpe", 2), ("cmaes", 1), ("gp", 1), ("nsga2", 2)])
def test_told_the_same_it_says_the_same(name, directions):
    assert play(sampler(name, directions), directions) == play(sampler(name, directions), directions)
    assert play(sampler(name, directions), directions) != play(sampler(name, directions, seed=1), directions)


@pytest.mark.parametrize("name", ["tpe", "cmaes", "gp", "nsga2"])
def test_what_is_drawn_lies_in_the_space(name):
    for number, values, _ in play(sampler(name), 1):
        if number:
            assert 1e-4 <= values["rate"] <= 1e-1
            assert values["layers"] in range(1, 10)
            assert values["width"] in range(8, 129)
            if name != "cmaes":
                assert values["crop"] in ([64, 64], [32, 96])
                assert ("momentum" in values) == (values["kind"] == "sgd")


def test_the_first_is_the_file_s_and_is_learned_from():
    asked = sampler("tpe")
    assert asked.ask(0) == FIRST
    asked.tell(0, [0.5])
    (known,) = asked.study.trials
    assert (known.value, known.params["rate"], known.params["crop"]) == (0.5, 0.01, 0)


def test_it_learns():
    """Against draws at random, over seeds: what it asks for late is better."""

    def late(name: str) -> float:
        total = 0.0
        for seed in range(4):
            asked = Learned(
                name,
                spaces.read(NUMBERS),
                first={k: v for k, v in FIRST.items() if k in NUMBERS},
                trials=40,
                seed=seed,
                directions=["maximize"],
            )
            for number in range(40):
                values = asked.ask(number)
                asked.tell(number, [quality(values)])
                total += quality(values) if number >= 30 else 0.0
        return total / 40

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    study.optimize(
        lambda t: quality({"layers": t.suggest_int("l", 1, 9), "width": t.suggest_int("w", 8, 128, log=True)}), 200
    )
    by_chance = sum(t.value for t in study.trials) / 200
    assert late("tpe") > by_chance + 1
