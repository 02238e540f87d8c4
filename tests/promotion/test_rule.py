"""The rule alone: literal numbers in, a decision and its sentence out."""

import math
from typing import Any

import pytest

from pipelines.promotion import Difference, Rule, decide


def pq(value: Any) -> dict[str, Any]:
    return {"panoptic": {"pq": value}}


def verdict(challenger: Any, champion: Any, **settings: Any) -> tuple[bool, str]:
    asked = {k: settings.pop(k) for k in tuple(settings) if k in ("costs", "difference", "same_weights")}
    decision = decide(challenger=challenger, champion=champion, metric="panoptic.pq", rule=Rule(**settings), **asked)
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
        challenger={"panoptic": {"pq": 0.5, "sq": 0.6}}, champion=None, metric="panoptic.pq", rule=Rule(floors=floors)
    )
    assert decision.reason == "panoptic.pq 0.5 is below its floor 0.6; panoptic.sq 0.6 is below its floor 0.7"


def test_the_same_weights_stay_champion_whatever_the_numbers() -> None:
    assert verdict(pq(math.nan), pq(0.5), same_weights=True) == (True, "same weights")


def test_what_cannot_be_compared_is_refused_with_its_reason() -> None:
    decision = decide(challenger=pq(0.9), champion={}, metric="panoptic.pq", rule=Rule(), obstacle="other classes")
    assert (decision.promoted, decision.rule, decision.reason) == (False, "not comparable", "other classes")
    assert (decision.challenger, decision.champion) == (0.9, None)


def test_the_sentence_holds_the_numbers() -> None:
    decision = decide(challenger=pq(0.52), champion=pq(0.5), metric="panoptic.pq", rule=Rule(min_gain=0.01))
    assert decision.reason == ("panoptic.pq 0.52 against the champion's 0.5: a gain of +0.02, more than min_gain 0.01")


def difference(low: float, high: float, p: float, gain: float = 0.1) -> Difference:
    return Difference(gain=gain, low=low, high=high, p=p, level=0.95, resamples=1000, images=50)


@pytest.mark.parametrize(
    ("new", "found", "expected"),
    [
        (0.5, difference(0.05, 0.15, 0.002), (True, "gain")),
        (0.5, difference(-0.01, 0.21, 0.08), (False, "not significant")),
        (0.5, difference(0.01, 0.2, 0.0625), (False, "not significant")),  # too few images for so sure an answer
        (0.5, None, (False, "not significant")),
        (0.4, difference(0.0, 0.0, 1.0, 0.0), (False, "not significant")),
        (0.4, None, (False, "not significant")),
        (0.3, difference(-0.2, -0.05, 0.002, -0.1), (False, "gain")),  # significantly worse is worse
    ],
)
def test_a_gain_must_be_more_than_luck(new: float, found: Difference | None, expected: tuple[bool, str]) -> None:
    assert verdict(pq(new), pq(0.4), level=0.95, difference=found) == expected


def test_a_gain_that_may_be_luck_is_told_with_its_interval() -> None:
    told = difference(-0.01, 0.21, 0.08)
    decision = decide(
        challenger=pq(0.5), champion=pq(0.4), metric="panoptic.pq", rule=Rule(level=0.95), difference=told
    )
    assert decision.reason == ("a gain of +0.1 is not significant (95 % interval -0.01 to +0.21, p 0.08, 50 images)")
    assert decision.difference == told


def by_class(**values: float | None) -> dict[str, Any]:
    return {"panoptic": {"pq": 0.5 + (values.get("cat") or 0) / 10, "pq_per_class": values}}


@pytest.mark.parametrize(
    ("new", "old", "bound", "expected"),
    [
        ({"cat": 0.9, "sky": 0.5}, {"cat": 0.4, "sky": 0.55}, 0.1, True),
        ({"cat": 0.9, "sky": 0.4}, {"cat": 0.4, "sky": 0.55}, 0.1, False),
        ({"cat": 0.9, "sky": 0.2}, {"cat": 0.4, "sky": 0.3}, 0.1, True),  # by just as much, in floats by more
        ({"cat": 0.9, "sky": 0.4}, {"cat": 0.4, "sky": 0.55}, None, True),
        ({"cat": 0.9, "sky": None}, {"cat": 0.4, "sky": 0.55}, 0.1, False),
        ({"cat": 0.9, "sky": None}, {"cat": 0.4, "sky": None}, 0.1, True),
        ({"cat": 0.9}, {"cat": 0.4, "sky": 0.55}, 0.1, False),
        ({"cat": 0.9, "a.b": 0.1}, {"cat": 0.4, "a.b": 0.5}, 0.1, False),  # a name with a dot of its own
    ],
)
def test_no_class_may_pay_for_the_others(new: Any, old: Any, bound: float | None, expected: bool) -> None:
    wanted = (True, "gain") if expected else (False, "class drop")
    assert verdict(by_class(**new), by_class(**old), max_class_drop=bound) == wanted


def test_every_class_that_falls_is_named() -> None:
    decision = decide(
        challenger=by_class(cat=0.9, sky=0.1, sea=0.2), champion=by_class(cat=0.1, sky=0.5, sea=0.5),
        metric="panoptic.pq", rule=Rule(max_class_drop=0.1),
    )  # fmt: skip
    assert decision.reason == (
        "panoptic.pq_per_class.sky falls from 0.5 to 0.1, by more than max_class_drop 0.1; "
        "panoptic.pq_per_class.sea falls from 0.5 to 0.2, by more than max_class_drop 0.1"
    )
    assert [(check.rule, check.holds) for check in decision.checks] == [
        ("gain", True), ("class drop", False), ("class drop", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("costs", "expected", "said"),
    [
        ({"latency_ms": 50.0}, (True, "gain"), "a gain of +0.1"),
        ({"latency_ms": 50.1}, (False, "limit"), "cost.latency_ms 50.1 is above its limit 50"),
        ({}, (False, "limit"), "cost.latency_ms has a limit of 50 and was not measured: dvc repro --force evaluate"),
        (None, (False, "limit"), "was not measured"),
        ({"latency_ms": math.nan}, (False, "limit"), "was not measured"),
        ({"latency_ms": "fast"}, (False, "limit"), "was not measured"),
    ],
)
def test_limits_bound_what_it_costs(costs: Any, expected: tuple[bool, str], said: str) -> None:
    for champion in (pq(0.4), None):  # the first champion is bound by them too
        decision = decide(
            challenger=pq(0.5), champion=champion, metric="panoptic.pq", rule=Rule(limits={"cost.latency_ms": 50}),
            costs=costs,
        )  # fmt: skip
        assert decision.promoted is expected[0]
        if champion:
            assert (decision.promoted, decision.rule) == expected
            assert said in decision.reason


def test_what_was_rolled_back_does_not_come_back_by_itself() -> None:
    decision = decide(
        challenger=pq(0.9), champion=pq(0.1), metric="panoptic.pq", rule=Rule(), withdrawn="version 3 was rolled back"
    )
    assert (decision.promoted, decision.rule, decision.reason) == (False, "rolled back", "version 3 was rolled back")
