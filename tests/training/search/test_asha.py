"""Asynchronous halving against Ray's own."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers.async_hyperband import _Bracket

from pipelines.training.search.asha import Asha
from pipelines.training.search.record import Record


@given(st.data())
def test_who_is_stopped_is_who_ray_would_stop(data):
    trials, epochs = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 9))
    grace, factor = data.draw(st.integers(1, epochs)), data.draw(st.integers(2, 4))
    order = data.draw(st.randoms(use_true_random=False))
    bracket = _Bracket(grace, epochs, factor, 0)
    rule = Asha(epochs=epochs, grace=grace, factor=factor)
    records = {n: Record(number=n, drawn={}, values={}) for n in range(trials)}
    while running := [n for n, record in records.items() if record.live]:
        record = records[order.choice(running)]
        score = data.draw(st.sampled_from([0.1, 0.2, 0.3, 0.4]))
        record.rows.append({"score": score})
        # At its last epoch Ray ends a trial before it is compared.
        theirs = (
            record.epochs < epochs
            and bracket.on_result(SimpleNamespace(trial_id=record.number), record.epochs, score) == "STOP"
        )
        assert (rule.judge(records, trials)[record.number] == "stop") == theirs
        record.passed = record.epochs
        record.status = "stopped" if theirs else "done" if record.epochs == epochs else "running"
