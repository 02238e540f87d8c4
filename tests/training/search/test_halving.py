"""Successive halving against a driver that reports and loses trials in any order."""

import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.search.halving import Halving
from pipelines.training.search.record import Record


def drive(rule: Halving, scores: list[list[float]], dies: dict[int, int], order: Any) -> list[int]:
    """Any trial that may run is the next to give a result, until none may; the epochs that each has run."""
    records = {0: Record(number=0, drawn={}, values={})}
    while True:
        for n, verdict in rule.judge(records, len(scores)).items():
            if verdict == "stop":
                records[n].status = "stopped"
        ready = [n for n, verdict in rule.judge(records, len(scores)).items() if verdict == "run"]
        to_come = len(records) < len(scores)
        if not ready and not to_come:
            break
        n = order.choice([*ready, len(records)] if to_come else ready)
        if n == len(records):
            records[n] = Record(number=n, drawn={}, values={})
        elif dies.get(n) == records[n].epochs:
            records[n].status = "failed"
        else:
            records[n].rows.append({"score": scores[n][records[n].epochs]})
            if records[n].epochs == rule.epochs:
                records[n].status = "done"
    assert not any(record.live for record in records.values()), records
    return [records[n].epochs for n in range(len(scores))]


def by_hand(scores: list[list[float]], epochs: int, grace: int, factor: int, dies: dict[int, int]) -> list[int]:
    """The same, without time: every trial runs to the rung, then they are sorted."""
    ran, alive, room, rung, done = [0] * len(scores), list(range(len(scores))), len(scores), min(grace, epochs), False
    while not done:
        for n in alive:
            ran[n] = min(rung, dies.get(n, rung))
        alive = [n for n in alive if dies.get(n, rung) >= rung]
        done = rung == epochs
        room = math.ceil(room / factor)
        alive = sorted(alive, key=lambda n: (-scores[n][rung - 1], n))[:room]
        rung = min(rung * factor, epochs)
    return ran


@given(st.data())
def test_who_goes_on_depends_on_the_scores_alone(data):
    trials, epochs = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 9))
    grace, factor = data.draw(st.integers(1, epochs)), data.draw(st.integers(2, 4))
    scores = data.draw(
        st.lists(
            st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=epochs, max_size=epochs),
            min_size=trials,
            max_size=trials,
        )
    )
    dies = data.draw(st.dictionaries(st.integers(0, trials - 1), st.integers(0, epochs - 1), max_size=3))
    rule = Halving(epochs=epochs, grace=grace, factor=factor)
    assert drive(rule, scores, dies, data.draw(st.randoms())) == by_hand(scores, epochs, grace, factor, dies)
