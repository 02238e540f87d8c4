"""The search on Ray: what runs, what is stopped, what fails, and what is left after a kill."""

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipelines import config
from pipelines.errors import ConfigError, InputError
from pipelines.training.balance import Balance
from pipelines.training.search import stint
from pipelines.training.search.outcome import best
from pipelines.training.search.record import Record
from pipelines.training.search.run import search
from pipelines.training.search.samplers import Drawn

Told = list[tuple[int, int]]
Search = Callable[..., tuple[list[Record], Told]]


@pytest.fixture
def run(ray: None, small: Callable[..., dict[str, Any]], dataset: Path, tmp_path: Path) -> Search:
    """run(candidates, changes) -> the trials, and (trial, epoch) of each result in the order of their arrival."""
    searches: list[Path] = []

    def start(drawn: list[dict[str, Any]], changes: dict[str, Any], **more: Any) -> tuple[list[Record], Told]:
        settings = {"tune.grace_epochs": 1, "tune.reduction_factor": 2, "tune.concurrent": 2}
        raw = small("semantic", {**settings, "tune.trials": len(drawn), **changes})
        searches.append(tmp_path / str(len(searches)))
        told: Told = []

        def on_result(record: Record, row: Mapping[str, float]) -> None:
            told.append((record.number, int(row["epoch"])))

        of = {"data": dataset, "state": searches[-1], "sampler": Drawn(drawn), **more}
        return search(raw, on_result=on_result, **of), told

    return start


def rates(*values: float) -> list[dict[str, Any]]:
    return [{"train.learning_rate": value} for value in values]


def test_trials_are_halved_and_the_one_that_leads_runs_to_the_end(run):
    """One of them cannot be trained: it is reported, and the search goes on."""
    drawn = [{**c, "loss.terms.semantic": 1.0} for c in rates(0.02, 1e-6, 0.01, 1e-6)]
    drawn[3]["loss.terms.semantic"] = 1e39
    trials, told = run(drawn, {"tune.epochs": 4})
    assert [t.number for t in trials] == [0, 1, 2, 3]
    assert [t.values for t in trials] == drawn, trials
    assert sorted(t.epochs for t in trials) == [0, 1, 2, 4]
    assert sorted(told) == sorted((t.number, epoch) for t in trials for epoch in range(t.epochs)), "each epoch once"
    failed = trials[3]
    assert (failed.score, failed.epochs, failed.status) == (None, 0, "failed")
    assert "non-finite" in failed.error
    winner = best(trials)
    assert (winner.epochs, winner.status) == (4, "done")
    assert winner.score > max(t.score_at(1) for t in trials if t.epochs == 1)
    assert sorted(t.status for t in trials) == ["done", "failed", "stopped", "stopped"]


def test_what_is_wrong_in_the_data_ends_the_search_at_once(run, tmp_path):
    with pytest.raises(InputError, match=r"dataset\.json is missing"):
        run(rates(0.01, 0.02), {}, data=tmp_path / "nowhere")


def test_a_trial_that_fits_nowhere_is_refused(run):
    with pytest.raises(
        ConfigError, match=r"no machine can hold a trial: it asks for 64 CPUs.*at most there are 2 CPUs"
    ):
        run(rates(0.01, 0.02), {"tune.resources.cpu": 64.0})


def test_a_trial_takes_the_passes_of_all_workers(small):
    raw = small("semantic", {"train.workers": 2, "train.min_workers": 2, "train.batch_size": 16})
    alone = stint.parameters(raw, {"train.accumulate": 2}, smaller=1).train
    assert (alone.workers, alone.min_workers, alone.passes, alone.batch_size) == (1, 1, 8, 16)
    assert stint.micro_batch(raw, {"train.accumulate": 2}, 1) == alone.batch_size // alone.passes == 2


@pytest.mark.slow
def test_memory_that_runs_out_is_not_fatal(run):
    """Batches of terabytes, which no machine holds: marked, and the others are as they would be."""
    drawn = [{"train.augment.crop": [64, 64]}, {"train.augment.crop": [1_000_000, 1_000_000]}]
    (good, bad), _ = run(drawn, {"tune.epochs": 1})
    assert (good.status, good.error) == ("done", "")
    assert (bad.status, bad.score) == ("failed", None)
    assert "memory" in bad.error


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_trial_goes_on(ray, small, dataset, tmp_path):
    """By SIGKILL, as the kernel ends what takes too much memory: the scores are those of a search without it."""
    raw = small("semantic", {"tune.epochs": 4, "tune.scheduler": "none"})
    drawn = rates(0.02, 0.01)
    killed: list[int] = []

    def kill(record: Record, row: Mapping[str, float]) -> None:
        if record.number == 1 and row["epoch"] == 1 and not killed:
            lock = str(tmp_path / "disturbed" / "trial-1" / ".lock")
            killed.extend(p.pid for p in psutil.process_iter() if holds(p, lock))
            os.kill(killed[0], signal.SIGKILL)

    plain = search(raw, data=dataset, state=tmp_path / "plain", sampler=Drawn(drawn))
    found = search(raw, data=dataset, state=tmp_path / "disturbed", sampler=Drawn(drawn), on_result=kill)
    assert killed
    assert [(t.status, t.error) for t in found] == [("done", "")] * 2
    assert [scores(t) for t in found] == [scores(t) for t in plain]
    assert (found[1].lost, found[1].smaller) == (0, 0), "it got somewhere since"
    assert found[1].notes[0].startswith("its worker was lost after 2 epochs, and it went on")


def holds(process: psutil.Process, path: str) -> bool:
    try:
        return any(file.path == path for file in process.open_files())
    except psutil.Error:
        return False


def scores(trial: Record) -> list[float]:
    return [row["score"] for row in trial.rows]


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", ["halving", "pbt"])
def test_the_same_search_has_the_same_outcome(run, scheduler):
    changes = {
        "tune.epochs": 4,
        "tune.scheduler": scheduler,
        "tune.space": {"train.learning_rate": {"loguniform": [0.001, 0.1]}},
    }
    drawn = rates(0.005, 0.02, 0.001, 0.05, 0.01)
    first, _ = run(drawn, {**changes, "tune.concurrent": 2})
    again, _ = run(drawn, {**changes, "tune.concurrent": 1})
    assert [(scores(t), t.values, t.status) for t in first] == [(scores(t), t.values, t.status) for t in again]
    if scheduler == "halving":
        assert sorted(t.epochs for t in first) == [1, 1, 2, 4, 4], "of five go on three, of three two"


@pytest.mark.slow
def test_of_a_population_the_worst_take_the_weights_of_the_best(run):
    space = {"tune.space": {"train.learning_rate": {"loguniform": [0.0001, 0.1]}}}
    drawn = rates(0.02, 1e-4, 0.01, 2e-4)
    trials, _ = run(drawn, {"tune.epochs": 4, "tune.scheduler": "pbt", "tune.population.interval": 2, **space})
    assert [t.epochs for t in trials] == [4, 4, 4, 4]
    ranked = sorted(trials, key=lambda t: (-t.score_at(2), t.number))
    worst, donor = ranked[-1], ranked[0]
    assert [t.notes for t in ranked[:-1]] == [[], [], []]
    assert worst.notes == [f"went on from trial {donor.number} after 2 epochs"]
    assert worst.values != worst.drawn == drawn[worst.number]
    assert worst.score_at(3) > worst.score_at(2)


@pytest.mark.slow
def test_quality_and_latency(run):
    drawn = [{"model.channels": 16}, {"model.channels": 128}]
    changes = {"tune.epochs": 1, "tune.scheduler": "none", "tune.objectives": ["score", "latency"]}
    narrow, wide = run(drawn, changes)[0]
    assert 0 < narrow.latency < wide.latency < 60_000


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "scheduler"), [("tpe", "asha"), ("gp", "none"), ("cmaes", "asha")])
def test_samplers_that_learn(ray, small, dataset, tmp_path, sampler, scheduler):
    space = {"train.learning_rate": {"loguniform": [0.001, 0.1]}, "train.patience": {"integer": [0, 3]}}
    settings = {"tune.sampler": sampler, "tune.scheduler": scheduler, "tune.space": space, "tune.trials": 6}
    raw = small("semantic", {**settings, "tune.epochs": 2})
    trials = search(raw, data=dataset, state=tmp_path)
    assert [t.number for t in trials] == list(range(6))
    assert {t.status for t in trials} <= {"done", "stopped"}
    assert search(raw, data=dataset, state=tmp_path) == trials, "what is over is not begun again"


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
def test_a_trial_is_a_training_run_with_other_parameters(run, small, dataset, tmp_path):
    """What the search found for a candidate is what training with it gives."""
    from pipelines.training.job import Group, Job
    from pipelines.training.loop import fit

    trials, _ = run(rates(0.02, 0.01), {"tune.epochs": 2, "tune.grace_epochs": 2})
    for each in trials:
        raw = small("semantic", {**each.values, "train.epochs": 2})
        rows = fit(Job(params=config.parse(raw), data=dataset, state=tmp_path / f"job-{each.number}"), Group())
        assert each.score == rows[-1]["val_miou"]
        assert each.epochs == 2
