"""The names that a rule may be about: the evaluator's own, and no other."""

import math
from typing import Any

import pytest

from pipelines.data.schema import ClassInfo
from pipelines.errors import ConfigError
from pipelines.evaluation.evaluator import Detail, Evaluator
from pipelines.promotion import ERRORS, HEADLINE_BY_CLASS, METRICS, PER_CLASS, check, number

CLASSES = (ClassInfo(name="sky", color=(0, 0, 0), isthing=False), ClassInfo(name="cat", color=(1, 1, 1), isthing=True))


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
    floors = {"semantic.miou": 0.2, "instance.ap": 0.01, "panoptic.pq": 0.1, "semantic.iou.cat": 0.1}
    check(floors=floors, limits={}, metrics=metrics)


@pytest.mark.parametrize(
    ("floors", "said"),
    [
        ({"panoptic.pqq": 0.1}, "panoptic.pqq: no task has such a metric, did you mean 'panoptic.pq'?"),
        ({"miou": 0.1}, "miou: no task has such a metric, did you mean 'semantic.miou'?"),
        ({"semantic.iou": 0.1}, "semantic.iou: no task has such a metric"),
        ({"semantic.iou.cta": 0.1}, "did you mean 'semantic.iou.cat'?"),
        ({"semantic.ece": 0.1}, "semantic.ece: the smaller the better, a floor does not guard it"),
        ({"cost.size_mb": 3.0}, "cost.size_mb: a cost, which register.limits bounds"),
        ({"semantic.miou": math.nan}, "semantic.miou: must be a finite number, got nan"),
    ],
)
def test_a_floor_on_nothing_is_refused(floors: dict[str, float], said: str) -> None:
    metrics = Evaluator(task="semantic", classes=CLASSES).compute()
    with pytest.raises(ConfigError) as raised:
        check(floors={**floors, "instance.ap": 0.1, "apple": 1}, limits={}, metrics=metrics)
    assert said in str(raised.value)
    assert "register.floors: 2 faults" in str(raised.value)


def test_number_reads_dotted_names() -> None:
    assert number({"a": {"b": {"c": 0.5}}}, "a.b.c") == 0.5
    assert number({"a": {"b": math.nan}}, "a.b") is None


def test_the_headlines_by_class_are_the_evaluator_s() -> None:
    assert set(HEADLINE_BY_CLASS) <= METRICS
    assert set(HEADLINE_BY_CLASS.values()) <= PER_CLASS


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"latency_ms": 5}, "latency_ms: no such cost is measured, did you mean 'cost.latency_ms'?"),
        ({"cost.latency": 5}, "cost.latency: no such cost is measured, did you mean 'cost.latency_ms'?"),
        ({"semantic.miou": 5}, "semantic.miou: no such cost is measured"),
        ({"cost.size_mb": math.inf}, "cost.size_mb: must be a finite number above 0, got inf"),
    ],
)
def test_a_limit_on_nothing_is_refused(limits: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        check(floors={"apple": 1}, limits={"cost.memory_mb": 500, **limits}, metrics={})
    assert said in str(raised.value)
    assert "register.floors and register.limits: 2 faults" in str(raised.value)
