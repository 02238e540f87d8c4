"""Whether a challenger becomes champion: a pure rule. Same numbers, same answer, and a sentence that says why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
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
ERRORS = frozenset(["semantic.ece", "semantic.mce"])  # the smaller the better
# Sums of floats: differences below this are no differences.
EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided, by which rule, on which numbers."""

    promoted: bool
    rule: str  # same weights, not a number, floor, first champion, not comparable, tie, gain
    reason: str
    metric: str
    challenger: float | None
    champion: float | None
    min_gain: float


def check_floors(floors: Mapping[str, float], metrics: Mapping[str, Any]) -> None:
    """Refuse floors on what is no metric of any task; a floor that guards nothing must not look as if it did."""
    leaves = [f"{prefix}.{name}" for prefix in PER_CLASS for name in _classes(metrics, prefix)]
    allowed = sorted(METRICS) + sorted(leaves)
    faults = []
    for name, floor in floors.items():
        # A class can be told from a misspelt one only where its family is at hand.
        unseen = name.rpartition(".")[0] in PER_CLASS and name.split(".")[0] not in metrics
        if name in ERRORS:
            faults.append(f"{name}: the smaller the better, a floor does not guard it")
        elif name not in allowed and not unseen:
            whole = next((f", did you mean '{a}'?" for a in allowed if a.endswith(f".{name}")), "")
            faults.append(f"{name}: no task has such a metric{whole or did_you_mean(name, allowed)}")
        elif not math.isfinite(floor):
            faults.append(f"{name}: must be a finite number, got {floor}")
    if faults:
        what = f"register.floors: {len(faults)} fault{'s' * (len(faults) > 1)}"
        raise ConfigError(what, bounded(faults), "mend register.floors in params.yaml")


def number(metrics: Mapping[str, Any], name: str) -> float | None:
    """The metric with this dotted name; None where it is missing, undefined, or not finite."""
    value = _at(metrics, name)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if usable else None


def decide(
    *,
    challenger: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    metric: str,
    min_gain: float,
    floors: Mapping[str, float],
    same_weights: bool = False,
    obstacle: str = "",
) -> Decision:
    """Compare nested metrics ({"panoptic": {"pq": 0.4}}) of the same images.

    `champion` is None where there is none yet. `obstacle` says why a champion cannot be measured on these images. The
    first rule that applies decides; floors of families that the challenger's task does not give are not looked at.
    """
    new, old = number(challenger, metric), None if champion is None else number(champion, metric)

    def answer(promoted: bool, rule: str, reason: str) -> Decision:
        return Decision(
            promoted=promoted, rule=rule, reason=reason, metric=metric, challenger=new, champion=old, min_gain=min_gain
        )

    if same_weights:
        return answer(True, "same weights", "these weights are the champion's already")
    if new is None:
        return answer(False, "not a number", f"{metric} is {_said(challenger, metric)}: nothing to compare")
    if broken := _broken(challenger, floors):
        return answer(False, broken[0][0], "; ".join(reason for _, reason in broken))
    if obstacle:
        return answer(False, "not comparable", obstacle)
    if champion is None:
        return answer(True, "first champion", f"{metric} {new:.6g} breaks no floor, and there is no champion yet")
    if old is None:
        return answer(False, "not a number", f"the champion's {metric} is {_said(champion, metric)}: nothing to beat")
    gain = new - old
    if abs(gain) <= EPSILON:
        return answer(False, "tie", f"{metric} {new:.6g} equals the champion's: the champion stays")
    sentence = f"{metric} {new:.6g} against the champion's {old:.6g}: a gain of {gain:+.6g}"
    if gain > min_gain + EPSILON:
        return answer(True, "gain", f"{sentence}, more than min_gain {min_gain:g}")
    return answer(False, "gain", f"{sentence}, not more than min_gain {min_gain:g}")


def _broken(metrics: Mapping[str, Any], floors: Mapping[str, float]) -> list[tuple[str, str]]:
    """(rule, reason) for every floor that does not hold."""
    broken = []
    for name, floor in floors.items():
        if name.split(".")[0] not in metrics:
            continue
        value = number(metrics, name)
        if value is None:
            broken.append(("not a number", f"{name} is {_said(metrics, name)} and has a floor of {floor:g}"))
        elif value < floor:
            broken.append(("floor", f"{name} {value:.6g} is below its floor {floor:g}"))
    return broken


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


def _classes(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    value: Any = metrics
    for key in prefix.split("."):
        value = value.get(key, {})
    return list(value)


def _said(metrics: Mapping[str, Any], name: str) -> str:
    value = _at(metrics, name)
    return "missing" if value is _MISSING else "undefined (None)" if value is None else str(value)
