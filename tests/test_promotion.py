"""The rule alone: literal numbers in, a decision and its sentence out."""

import math
from typing import Any

import pytest

from pipelines.data.schema import ClassInfo
from pipelines.errors import ConfigError
from pipelines.evaluation.evaluator import Detail, Evaluator
from pipelines.promotion import ERRORS, METRICS, PER_CLASS, check_floors, decide, number

CLASSES = (ClassInfo(name="sky", color=(0, 0, 0), isthing=False), ClassInfo(name="cat", color=(1, 1, 1), isthing=True))


def pq(value: Any) -> dict[str, Any]:
    return {"panoptic": {"pq": value}}


def verdict(challenger: Any, champion: Any, **settings: Any) -> tuple[bool, str]:
    settings = {"metric": "panoptic.pq", "min_gain": 0.0, "floors": {}, **settings}
    decision = decide(challenger=challenger, champion=champion, **settings)
    assert decision.reason
    return decision.promoted, decision.rule


@pytest.mark.parametrize(
    ("challenger", "champion", "min_gain", "expected"),
    [
        (0.5, None, 0.0, (True, "first champion")),
        (0.5, 0.4, 0.0, (True, "gain")),
        (0.4, 0.5, 0.0, (False, "gain")),
        (0.5, 0.5, 0.0, (False, "tie")),
        (0.5, 0.5, 0.1, (False, "tie")),
        (0.55, 0.5, 0.1, (False, "gain")),
        (0.65, 0.5, 0.1, (True, "gain")),
        (0.8, 0.7, 0.1, (False, "gain")),  # in floats the gain is 0.10000000000000009: exactly min_gain is not more
        (0.1 + 0.2, 0.3, 0.0, (False, "tie")),  # in floats they differ
        (0.0, None, 0.0, (True, "first champion")),
        (1, 0.5, 0.0, (True, "gain")),  # JSON has no 1.0
        (math.nan, None, 0.0, (False, "not a number")),
        (math.nan, 0.5, 0.0, (False, "not a number")),
        (math.inf, 0.5, 0.0, (False, "not a number")),
        (None, 0.5, 0.0, (False, "not a number")),
        (True, 0.5, 0.0, (False, "not a number")),
        ("0.9", 0.5, 0.0, (False, "not a number")),
        (0.5, math.nan, 0.0, (False, "not a number")),
        (0.5, None, math.inf, (True, "first champion")),
        (0.5, 0.4, math.inf, (False, "gain")),
    ],
)
def test_the_better_number_wins(challenger: Any, champion: Any, min_gain: float, expected: tuple[bool, str]) -> None:
    assert verdict(pq(challenger), None if champion is None else pq(champion), min_gain=min_gain) == expected


@pytest.mark.parametrize("metrics", [{}, {"panoptic": {}}, {"panoptic": {"pq": {"cat": 0.5}}}, {"panoptic": 0.5}])
def test_a_missing_metric_is_refused(metrics: dict[str, Any]) -> None:
    assert verdict(metrics, None) == (False, "not a number")
    assert verdict(pq(0.5), metrics) == (False, "not a number")


@pytest.mark.parametrize(
    ("floors", "expected"),
    [
        ({"panoptic.pq": 0.5}, (True, "gain")),  # at the floor is not below it
        ({"panoptic.pq": 0.6}, (False, "floor")),
        ({"semantic.miou": 0.3, "panoptic.pq": 0.1}, (False, "floor")),
        ({"instance.ap": 0.9}, (True, "gain")),  # a family that the task does not give
        ({"semantic.dice": 0.1}, (False, "not a number")),  # undefined
        ({"semantic.iou.cat": 0.5}, (False, "floor")),
    ],
)
def test_floors_hold_whatever_the_gain(floors: dict[str, float], expected: tuple[bool, str]) -> None:
    challenger = {"panoptic": {"pq": 0.5}, "semantic": {"miou": 0.2, "dice": None, "iou": {"cat": 0.4}}}
    assert verdict(challenger, pq(0.1), floors=floors) == expected


def test_every_broken_floor_is_named() -> None:
    floors = {"panoptic.pq": 0.6, "panoptic.sq": 0.7}
    decision = decide(
        challenger={"panoptic": {"pq": 0.5, "sq": 0.6}}, champion=None, metric="panoptic.pq", min_gain=0, floors=floors
    )
    assert decision.reason == "panoptic.pq 0.5 is below its floor 0.6; panoptic.sq 0.6 is below its floor 0.7"


def test_the_same_weights_stay_champion_whatever_the_numbers() -> None:
    assert verdict(pq(math.nan), pq(0.5), same_weights=True) == (True, "same weights")


def test_what_cannot_be_compared_is_refused_with_its_reason() -> None:
    decision = decide(
        challenger=pq(0.9), champion={}, metric="panoptic.pq", min_gain=0, floors={}, obstacle="other classes"
    )
    assert (decision.promoted, decision.rule, decision.reason) == (False, "not comparable", "other classes")
    assert (decision.challenger, decision.champion) == (0.9, None)


def test_the_sentence_holds_the_numbers() -> None:
    decision = decide(challenger=pq(0.52), champion=pq(0.5), metric="panoptic.pq", min_gain=0.01, floors={})
    assert decision.reason == ("panoptic.pq 0.52 against the champion's 0.5: a gain of +0.02, more than min_gain 0.01")


def leaves(metrics: dict[str, Any], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in metrics.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


def test_the_known_names_are_the_evaluator_s() -> None:
    detail = Detail(boundary=0.01, edge=0.02, resamples=10, seed=0)
    names = leaves(Evaluator(task="panoptic", classes=CLASSES, detail=detail).compute())
    per_class = {name for name in names if name.endswith((".sky", ".cat"))}
    assert names - per_class == METRICS | ERRORS
    assert {name.rpartition(".")[0] for name in per_class} == PER_CLASS


@pytest.mark.parametrize("task", ["semantic", "instance", "panoptic"])
def test_floors_of_all_tasks_may_stand_side_by_side(task: str) -> None:
    metrics = Evaluator(task=task, classes=CLASSES).compute()
    check_floors({"semantic.miou": 0.2, "instance.ap": 0.01, "panoptic.pq": 0.1, "semantic.iou.cat": 0.1}, metrics)


@pytest.mark.parametrize(
    ("floors", "said"),
    [
        ({"panoptic.pqq": 0.1}, "panoptic.pqq: no task has such a metric, did you mean 'panoptic.pq'?"),
        ({"miou": 0.1}, "miou: no task has such a metric, did you mean 'semantic.miou'?"),
        ({"semantic.iou": 0.1}, "semantic.iou: no task has such a metric"),
        ({"semantic.iou.cta": 0.1}, "did you mean 'semantic.iou.cat'?"),
        ({"semantic.ece": 0.1}, "semantic.ece: the smaller the better, a floor does not guard it"),
        ({"semantic.miou": math.nan}, "semantic.miou: must be a finite number, got nan"),
    ],
)
def test_a_floor_on_nothing_is_refused(floors: dict[str, float], said: str) -> None:
    metrics = Evaluator(task="semantic", classes=CLASSES).compute()
    with pytest.raises(ConfigError) as raised:
        check_floors({**floors, "instance.ap": 0.1, "apple": 1}, metrics)
    assert said in str(raised.value)
    assert "register.floors: 2 faults" in str(raised.value)


def test_number_reads_dotted_names() -> None:
    assert number({"a": {"b": {"c": 0.5}}}, "a.b.c") == 0.5
    assert number({"a": {"b": math.nan}}, "a.b") is None
