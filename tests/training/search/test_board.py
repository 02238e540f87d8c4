"""Where a search stands, and that it stands there again after a kill at any moment."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import config
from pipelines.training.search import schedulers
from pipelines.training.search.board import Board
from pipelines.training.search.record import Journal, Record
from pipelines.training.search.rules import Rule
from pipelines.training.search.samplers import Drawn

RAW = config.read(Path(__file__).resolve().parents[3] / "params.yaml")
SPACE = {"train.learning_rate": {"uniform": [0.0001, 1.0]}}
EPOCHS = 4


def board(state: Path, *, trials: int = 4, scheduler: str = "none", concurrent: int = 2, told: Any = None) -> Board:
    changes = {
        "tune.epochs": EPOCHS,
        "tune.scheduler": scheduler,
        "tune.space": SPACE,
        "tune.population.interval": 2,
        "tune.trials": trials,
    }
    settings = config.parse(config.merge(RAW, changes)).tune
    drawn = [{"train.learning_rate": (n * 0.37) % 1 or 0.5} for n in range(trials)]
    return Board(
        state,
        schedulers.build(settings, seed=0) if scheduler != "none" else Rule(),
        Drawn(drawn),
        concurrent=concurrent,
        on_result=lambda record, row: told.append((record.number, row["epoch"])) if told is not None else None,
        on_end=lambda record: None,
    )


class Worker:
    """Trains by a formula, and keeps its weights (a file) as a training would: a stint starts from what is there."""

    def __init__(self, state: Path, record: Record):
        self.folder, self.rate = state / f"trial-{record.number}", record.values["train.learning_rate"]
        self.weights = self.folder / "checkpoints" / "weights"

    def step(self) -> dict[str, float]:
        epoch, value = map(float, self.weights.read_text().split()) if self.weights.exists() else (0, 0.0)
        value += self.rate
        self.weights.parent.mkdir(parents=True, exist_ok=True)
        self.weights.write_text(f"{epoch + 1} {value}")
        return {"epoch": epoch, "score": value}


def play(state: Path, order: Any, scheduler: str, kills: int) -> tuple[list[Any], list[tuple[int, float]]]:
    """All moves in any order; a kill loses the board and the running workers at any moment."""
    told: list[tuple[int, float]] = []
    at = board(state, scheduler=scheduler, told=told)
    workers: dict[int, Worker] = {}
    for _ in range(2000):
        if at.over:
            break
        if kills and order.random() < 0.2:
            kills, workers, at = kills - 1, {}, board(state, scheduler=scheduler, told=told)
        elif len(workers) < 2 and order.random() < 0.5 and (record := at.next()):
            assert record.number not in workers, "one worker for a trial"
            workers[record.number] = Worker(state, record)
        elif workers:
            number = order.choice(sorted(workers))
            goes_on = at.told(number, workers[number].step())
            if at.records[number].epochs == EPOCHS and at.records[number].live:
                at.finished(number, None)
                goes_on = False
            if not goes_on:
                del workers[number]
                at.closed(number)
    assert at.over, at.records
    found = [(r.number, r.status, r.values, [row["score"] for row in r.rows]) for r in at.records.values()]
    return sorted(found), told


@pytest.mark.parametrize("scheduler", ["none", "halving", "pbt"])
@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(order=st.randoms(use_true_random=False), kills=st.integers(0, 3))
def test_a_search_that_was_killed_ends_as_one_that_was_not(tmp_path_factory, scheduler, order, kills):
    plain, disturbed = (tmp_path_factory.mktemp("search") for _ in range(2))
    expected, _ = play(plain, order, scheduler, 0)
    found, told = play(disturbed, order, scheduler, kills)
    assert found == expected
    assert sorted(told) == [(n, e) for n, _, _, rows in found for e in range(len(rows))], "nothing is counted twice"
    shutil.rmtree(plain), shutil.rmtree(disturbed)


def test_no_more_run_than_may(tmp_path):
    at = board(tmp_path, concurrent=2)
    assert [record.number for record in (at.next(), at.next()) if record] == [0, 1]
    assert at.next() is None
    at.closed(0)
    again = at.next()
    assert again is not None
    assert again.number == 0, "what was begun goes on first"


def test_micro_batches_are_halved_until_they_cannot_be(tmp_path):
    at = board(tmp_path)
    at.next()
    at.out_of_memory(0, "memory", images=4)
    assert (at.records[0].smaller, at.records[0].live) == (1, True)
    assert at.records[0].notes == ["micro-batches of 2 instead of 4 after 0 epochs: memory"]
    at.out_of_memory(0, "memory", images=1)
    assert (at.records[0].status, at.records[0].error) == ("failed", "memory; micro-batches of 1 cannot be halved")
    assert Journal(tmp_path / "journal").read()[0] == at.records[0]


def test_a_worker_may_be_lost_by_chance_once(tmp_path):
    at = board(tmp_path)
    at.next()
    at.lost(0, "gone", images=2)
    assert at.records[0].smaller == 0
    at.lost(0, "gone", images=2)
    assert at.records[0].smaller == 1
    at.lost(0, "gone", images=1)
    assert at.records[0].status == "failed"


def test_a_worker_that_says_nothing_is_not_started_for_ever(tmp_path):
    at = board(tmp_path, trials=1)
    for _ in range(3):
        assert at.next() is not None
        at.closed(0)
    assert at.over
    assert at.records[0].error == "its worker ended without a result"


def test_a_record_that_cannot_be_read_is_begun_again(tmp_path, caplog):
    at = board(tmp_path)
    first, second = at.next(), at.next()
    assert first is not None
    assert second is not None
    (tmp_path / "journal" / "00000.json").write_text('{"number": 0, "dra')
    again = board(tmp_path)
    assert "is damaged" in caplog.text
    assert sorted(again.records) == [1]
    assert sorted(r.number for r in (again.next(), again.next()) if r) == [0, 1]
