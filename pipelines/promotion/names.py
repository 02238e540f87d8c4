"""What a rule may be about: the metrics that the evaluator gives and the costs that it measures, by dotted names."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.errors import ConfigError, bounded, did_you_mean

_SEMANTIC = ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou", "dice", "boundary_f1")
_AP = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
_AR = ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")
# What the evaluator gives, here so that a floor on a metric of another task can be told from a misspelt one; a test
# holds both sides equal.
METRICS = frozenset(
    [f"semantic.{n}" for n in _SEMANTIC]
    + [f"instance.{view}{n}" for view in ("", "box.", "boundary.") for n in (*_AP, *_AR)]
    + [f"instance.{n}" for n in ("accuracy", *(f"accuracy{iou}" for iou in range(50, 100, 5)))]
    + [f"panoptic.{n}{group}" for n in ("pq", "sq", "rq") for group in ("", "_things", "_stuff")]
)
PER_CLASS = frozenset(
    [f"semantic.{n}" for n in ("iou", "accuracy", "boundary_f1_per_class")]
    + [f"instance.{view}ap_per_class" for view in ("", "box.", "boundary.")]
    + [f"panoptic.{n}_per_class" for n in ("pq", "sq", "rq")]
)
_MISTAKES = ("badly_localised", "both", "duplicate", "false_positive", "missed", "wrong_class")
ERRORS = frozenset(  # the smaller the better
    [f"{family}.{n}" for family in ("semantic", "instance") for n in ("ece", "mce")]
    + [f"panoptic.errors.{n}" for n in _MISTAKES]
)
COSTS = frozenset(f"cost.{n}" for n in ("latency_ms", "latency_p95_ms", "memory_mb", "parameters", "size_mb"))


def check(*, floors: Mapping[str, float], limits: Mapping[str, float], metrics: Mapping[str, Any]) -> None:
    """Refuse floors on what is no metric of any task, and limits on what is no cost: what guards nothing must not look
    as if it did."""
    faults = {"register.floors": list(_floors(floors, metrics)), "register.limits": list(_limits(limits))}
    wrong = [section for section, found in faults.items() if found]
    listed = [fault for found in faults.values() for fault in found]
    if listed:
        where = " and ".join(wrong)
        what = f"{where}: {len(listed)} fault{'s' * (len(listed) > 1)}"
        raise ConfigError(what, bounded(listed), f"mend {where} in params.yaml")


def number(metrics: Mapping[str, Any], name: str) -> float | None:
    """The metric with this dotted name; None where it is missing, undefined, or not finite."""
    value = _at(metrics, name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def said(metrics: Mapping[str, Any], name: str) -> str:
    """The metric in a sentence, whatever it is."""
    value = _at(metrics, name)
    return "missing" if value is _MISSING else "undefined (None)" if value is None else str(value)


def classes(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    """Those that a family of scores has."""
    value: Any = metrics
    for key in prefix.split("."):
        value = value.get(key, {}) if isinstance(value, Mapping) else {}
    return list(value) if isinstance(value, Mapping) else []


def _floors(floors: Mapping[str, float], metrics: Mapping[str, Any]) -> Iterator[str]:
    leaves = [f"{prefix}.{name}" for prefix in PER_CLASS for name in classes(metrics, prefix)]
    allowed = sorted(METRICS) + sorted(leaves)
    for name, floor in floors.items():
        # A class can be told from a misspelt one only where its family is at hand.
        unseen = name.rpartition(".")[0] in PER_CLASS and name.split(".")[0] not in metrics
        if name in ERRORS:
            yield f"{name}: the smaller the better, a floor does not guard it"
        elif name in COSTS:
            yield f"{name}: a cost, which register.limits bounds"
        elif name not in allowed and not unseen:
            whole = next((f", did you mean '{a}'?" for a in allowed if a.endswith(f".{name}")), "")
            yield f"{name}: no task has such a metric{whole or did_you_mean(name, allowed)}"
        elif not math.isfinite(floor):
            yield f"{name}: must be a finite number, got {floor}"


def _limits(limits: Mapping[str, float]) -> Iterator[str]:
    for name, limit in limits.items():
        if name not in COSTS:
            whole = f", did you mean 'cost.{name}'?" if f"cost.{name}" in COSTS else did_you_mean(name, COSTS)
            yield f"{name}: no such cost is measured{whole} (allowed: {', '.join(sorted(COSTS))})"
        elif not (math.isfinite(limit) and limit > 0):
            yield f"{name}: must be a finite number above 0, got {limit}"


class _Missing:
    """What stands in for a metric that is not there, as None stands for one that is undefined."""


_MISSING = _Missing()


def _at(metrics: Mapping[str, Any], name: str) -> Any:
    value: Any = metrics
    while name:
        if not isinstance(value, Mapping):
            return _MISSING
        # The name of a class may hold dots of its own.
        key, _, name = (name, "", "") if name in value else name.partition(".")
        if key not in value:
            return _MISSING
        value = value[key]
    return _MISSING if isinstance(value, Mapping) else value
