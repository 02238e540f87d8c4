"""The search: what is tried, what is stopped, and what is chosen."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import config
from pipelines.errors import RunError
from pipelines.training import search
from pipelines.training.balance import Balance
from pipelines.training.search import Trial, best, candidates

RAW = config.read(Path(__file__).resolve().parents[2] / "params.yaml")
SPACE = {
    "train.learning_rate": {"loguniform": [1e-3, 1e-1]},
    "train.weight_decay": {"uniform": [0, 1]},
    "train.optimizer": {"choice": ["adamw", "sgd"]},
    "train.clip_norm": {"choice": [0, 1.23456789]},
    "train.augment.crop": {"choice": [[64, 64], [32, 96]]},
}


def test_the_first_candidate_is_what_the_file_says():
    assert candidates(RAW, SPACE, trials=1, seed=0) == [{name: config.get(RAW, name) for name in SPACE}]


@given(st.integers(0, 2**31 - 1))
def test_candidates_are_a_function_of_the_seed(seed):
    drawn = candidates(RAW, SPACE, trials=6, seed=seed)
    assert drawn == candidates(RAW, SPACE, trials=6, seed=seed)
    assert drawn[:3] == candidates(RAW, SPACE, trials=3, seed=seed), "a longer search begins as a shorter one"
    assert drawn[1:] != candidates(RAW, SPACE, trials=6, seed=(seed + 1) % 2**31)[1:]


@given(st.floats(1e-3, 1e3), st.floats(1e-6, 1.0), st.sampled_from(["uniform", "loguniform"]), st.integers(0, 1000))
def test_what_is_drawn_lies_in_its_range_however_narrow(low, width, kind, seed):
    high = low * (1 + width)
    drawn = candidates(RAW, {"train.clip_norm": {kind: [low, high]}}, trials=8, seed=seed)
    assert all(low <= c["train.clip_norm"] <= high for c in drawn[1:])


def test_what_is_chosen_is_what_was_named():
    drawn = candidates(RAW, SPACE, trials=40, seed=0)[1:]
    for name in ("train.optimizer", "train.clip_norm", "train.augment.crop"):
        values = SPACE[name]["choice"]
        assert all(c[name] in values for c in drawn)
        assert len({str(c[name]) for c in drawn}) == len(values)
    rates = [c["train.learning_rate"] for c in drawn]
    assert sum(rate < 1e-2 for rate in rates) == pytest.approx(20, abs=8), "half of them in the lower decade"
    assert all(float(f"{rate:.4g}") == rate for rate in rates), "what best.yaml says is what was run"


@given(st.integers(0, 1000))
def test_every_candidate_is_accepted_as_parameters(seed):
    for changes in candidates(RAW, SPACE, trials=4, seed=seed):
        config.parse(config.merge(RAW, changes))


def trial(number: int, score: float | None, epochs: int, error: str = "") -> Trial:
    return Trial(number=number, values={}, score=score, epochs=epochs, error=error)


def test_the_best_is_one_of_those_that_ran_longest():
    trials = [trial(0, 0.5, 4), trial(1, 0.9, 1), trial(2, 0.6, 4), trial(3, 0.6, 4), trial(4, None, 4, "diverged")]
    assert best(trials).number == 2, "the first of equals"


def test_a_search_in_which_all_fails_says_why():
    with pytest.raises(RunError, match=r"every trial failed; the first one: non-finite loss\ndo: narrow tune\.space"):
        best([trial(0, None, 0, "non-finite loss"), trial(1, None, 0, "other")])


Search = Callable[..., tuple[list[Trial], list[tuple[int, int]]]]


@pytest.fixture
def run(ray: None, small: Callable[..., dict[str, Any]], dataset: Path, tmp_path: Path) -> Search:
    """run(candidates, changes) -> the trials, and (trial, epoch) of each result in the order of their arrival."""
    searches: list[Path] = []

    def start(
        drawn: list[dict[str, Any]], changes: dict[str, Any], balance: Balance | None = None
    ) -> tuple[list[Trial], list[tuple[int, int]]]:
        settings = {"tune.grace_epochs": 1, "tune.reduction_factor": 2, "tune.concurrent": 2}
        raw = small("semantic", {**settings, "tune.trials": len(drawn), **changes})
        searches.append(tmp_path / str(len(searches)))
        told: list[tuple[int, int]] = []
        found = search.search(
            raw,
            drawn,
            data=dataset,
            state=searches[-1],
            on_result=lambda n, row: told.append((n, row["epoch"])),
            balance=balance,
        )
        return found, told

    return start


def rates(*values: float) -> list[dict[str, Any]]:
    return [{"train.learning_rate": value} for value in values]


def test_trials_are_halved_and_the_one_that_leads_runs_to_the_end(run):
    """One of them cannot be trained: it is reported, and the search goes on."""
    drawn = [{**c, "loss.terms.semantic": 1.0} for c in rates(0.02, 1e-6, 0.01, 1e-6)]
    drawn[3]["loss.terms.semantic"] = 1e39
    trials, told = run(drawn, {"tune.epochs": 4})
    assert [t.number for t in trials] == [0, 1, 2, 3]
    assert [t.values for t in trials] == drawn
    assert sorted(t.epochs for t in trials) == [0, 1, 2, 4]
    assert sorted(told) == sorted((t.number, epoch) for t in trials for epoch in range(t.epochs)), "each epoch once"
    failed = trials[3]
    assert (failed.score, failed.epochs) == (None, 0)
    assert failed.error.startswith("non-finite loss or gradient at step 0 (loss inf")
    winner = best(trials)
    assert winner.epochs == 4
    assert winner.score > max(t.score for t in trials if t.epochs == 1)
    assert [t.error for t in trials[:3]] == ["", "", ""]


@pytest.mark.slow
def test_class_weights_and_the_sampling_can_be_searched(run):
    drawn = [
        {"loss.semantic.cross_entropy.class_weights": "inverse_frequency", "train.sampling": "uniform"},
        {"loss.semantic.cross_entropy.class_weights": "none", "train.sampling": "repeat_factor"},
    ]
    balance = Balance(class_weights={"inverse_frequency": [1.0, *[5.0] * 9]}, repeat_factors=[2.0] * 10)
    trials, _ = run(drawn, {"tune.epochs": 1}, balance=balance)
    assert [t.error for t in trials] == ["", ""]
    assert all(t.score > 0 for t in trials)


@pytest.mark.slow
def test_the_same_search_has_the_same_outcome(run):
    drawn = rates(0.005, 0.02, 0.001, 0.05, 0.01)
    first, _ = run(drawn, {"tune.epochs": 4, "tune.concurrent": 2})
    again, _ = run(drawn, {"tune.epochs": 4, "tune.concurrent": 1})
    assert first == again
    assert sorted(t.epochs for t in first) == [1, 1, 2, 4, 4], "of five go on three, of three two"


@pytest.mark.slow
def test_a_trial_is_a_training_run_with_other_parameters(run, small, dataset, tmp_path):
    """What the search found for a candidate is what training with it gives."""
    from pipelines.training.loop import Group, Job, fit

    trials, _ = run(rates(0.02, 0.01), {"tune.epochs": 2, "tune.grace_epochs": 2})
    for each in trials:
        raw = small("semantic", {**each.values, "train.epochs": 2})
        rows = fit(Job(params=config.parse(raw), data=dataset, state=tmp_path / f"job-{each.number}"), Group())
        assert each.score == rows[-1]["val_miou"]
        assert each.epochs == 2


@pytest.mark.slow
@pytest.mark.parametrize("settings", [(1, 1, 1), (1, 3, 1), (3, 1, 1), (5, 3, 3), (6, 5, 1), (3, 9, 2)])
def test_any_search_comes_to_an_end(run, settings):
    trials, epochs, grace = settings
    found, told = run(
        rates(*[0.01 / (i + 1) for i in range(trials)]), {"tune.epochs": epochs, "tune.grace_epochs": grace}
    )
    assert len(found) == trials
    assert max(t.epochs for t in found) == epochs
    assert min(t.epochs for t in found) >= grace
    assert len(told) == sum(t.epochs for t in found)
    assert not any(t.error for t in found)
