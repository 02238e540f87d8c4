"""The rule: what is looked at, one check after the other, and the decision that follows from the first that fails."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipelines.promotion.names import classes, number, said

# The family of the headline that says it class by class.
HEADLINE_BY_CLASS = {
    "semantic.miou": "semantic.iou",
    "instance.ap": "instance.ap_per_class",
    "panoptic.pq": "panoptic.pq_per_class",
}
# Sums of floats: differences below this are no differences.
EPSILON = 1e-12


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """The section `register` of params.yaml, as far as it decides."""

    min_gain: float = 0.0
    max_class_drop: float | None = None
    level: float | None = None  # of significance; None does not ask for it
    floors: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Challenger minus champion over resamples of the images, by `pipelines.metrics.paired`."""

    gain: float
    low: float
    high: float
    p: float  # of a difference like this, or a greater one, where there is none
    level: float
    resamples: int
    images: int

    @property
    def significant(self) -> bool:
        return self.p <= 1 - self.level and not self.low <= 0 <= self.high

    def __str__(self) -> str:
        interval = f"{100 * self.level:g} % interval {self.low:+.4g} to {self.high:+.4g}"
        return f"{interval}, p {self.p:.2g}, {self.images} images"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One question of the rule, and its answer."""

    rule: str
    holds: bool
    said: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What was decided, by which rule, on which numbers."""

    promoted: bool
    rule: str  # same weights, rolled back, not a number, floor, limit, first champion, not comparable, tie, gain,
    # not significant, class drop
    reason: str
    metric: str
    challenger: float | None
    champion: float | None
    min_gain: float
    difference: Difference | None = None
    checks: tuple[Check, ...] = ()


def decide(
    *,
    challenger: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
    metric: str,
    rule: Rule,
    costs: Mapping[str, Any] | None = None,
    difference: Difference | None = None,
    same_weights: bool = False,
    withdrawn: str = "",
    obstacle: str = "",
) -> Decision:
    """Compare nested metrics ({"panoptic": {"pq": 0.4}}) of the same images.

    `champion` is None where there is none yet. `withdrawn` says how the challenger was rolled back, if it was;
    `obstacle` why a champion cannot be measured on these images. The first check that fails decides; floors of families
    that the challenger's task does not give are not looked at.
    """
    new, old = number(challenger, metric), None if champion is None else number(champion, metric)

    def asked() -> Iterator[Check]:
        """As long as the answers leave something to ask."""
        if same_weights:
            yield Check(rule="same weights", holds=True, said="these weights are the champion's already")
            return
        if withdrawn:
            yield Check(rule="rolled back", holds=False, said=withdrawn)
            return
        if new is None:
            unusable = f"{metric} is {said(challenger, metric)}: nothing to compare"
            yield Check(rule="not a number", holds=False, said=unusable)
            return
        yield from _floors(challenger, rule.floors)
        yield from _limits(costs or {}, rule.limits)
        if obstacle:
            yield Check(rule="not comparable", holds=False, said=obstacle)
        elif champion is None:
            bound = "breaks no floor and no limit" if rule.limits else "breaks no floor"
            yield Check(
                rule="first champion", holds=True, said=f"{metric} {new:.6g} {bound}, and there is no champion yet"
            )
        elif old is None:
            unusable = f"the champion's {metric} is {said(champion, metric)}: nothing to beat"
            yield Check(rule="not a number", holds=False, said=unusable)
        else:
            yield from _compared(metric, new, old, rule, difference)
            yield from _falls(challenger, champion, metric, rule.max_class_drop)

    checks = tuple(asked())
    failed = [check for check in checks if not check.holds]
    deciding = [c for c in failed if c.rule == failed[0].rule] if failed else _reasons(checks)
    return Decision(
        promoted=not failed,
        rule=deciding[0].rule,
        reason="; ".join(check.said for check in deciding),
        metric=metric,
        challenger=new,
        champion=old,
        min_gain=rule.min_gain,
        difference=difference,
        checks=checks,
    )


def _reasons(checks: tuple[Check, ...]) -> list[Check]:
    """What speaks for a promotion; that a guard holds goes without saying."""
    return [check for check in checks if check.rule not in ("floor", "limit", "class drop")]


def _floors(metrics: Mapping[str, Any], floors: Mapping[str, float]) -> Iterator[Check]:
    for name, floor in floors.items():
        if name.split(".")[0] not in metrics:
            continue
        value = number(metrics, name)
        if value is None:
            unusable = f"{name} is {said(metrics, name)} and has a floor of {floor:g}"
            yield Check(rule="not a number", holds=False, said=unusable)
        elif value < floor:
            yield Check(rule="floor", holds=False, said=f"{name} {value:.6g} is below its floor {floor:g}")
        else:
            yield Check(rule="floor", holds=True, said=f"{name} {value:.6g} is not below its floor {floor:g}")


def _limits(costs: Mapping[str, Any], limits: Mapping[str, float]) -> Iterator[Check]:
    for name, limit in limits.items():
        value = number({"cost": costs}, name)
        if value is None:
            unknown = f"{name} has a limit of {limit:g} and was not measured: dvc repro --force evaluate"
            yield Check(rule="limit", holds=False, said=unknown)
        elif value > limit:
            yield Check(rule="limit", holds=False, said=f"{name} {value:.6g} is above its limit {limit:g}")
        else:
            yield Check(rule="limit", holds=True, said=f"{name} {value:.6g} is not above its limit {limit:g}")


def _compared(metric: str, new: float, old: float, rule: Rule, difference: Difference | None) -> Iterator[Check]:
    """The margin, and whether the difference is more than the luck of the draw."""
    gain = new - old
    found = "" if difference is None else f" ({difference})"
    if abs(gain) <= EPSILON:
        equal = f"{metric} {new:.6g} equals the champion's"
        if rule.level is None:
            yield Check(rule="tie", holds=False, said=f"{equal}: the champion stays")
        else:
            yield Check(rule="not significant", holds=False, said=f"{equal}: not significant{found}")
        return
    sentence = f"{metric} {new:.6g} against the champion's {old:.6g}: a gain of {gain:+.6g}"
    if gain > rule.min_gain + EPSILON:
        yield Check(rule="gain", holds=True, said=f"{sentence}, more than min_gain {rule.min_gain:g}")
    else:
        yield Check(rule="gain", holds=False, said=f"{sentence}, not more than min_gain {rule.min_gain:g}")
    if rule.level is None:
        return
    if difference is None:
        yield Check(
            rule="not significant", holds=False, said=f"{sentence}, and no image's own scores to tell it from luck by"
        )
    elif difference.significant:
        yield Check(rule="significant", holds=True, said=f"significant{found}")
    else:
        yield Check(rule="not significant", holds=False, said=f"a gain of {gain:+.6g} is not significant{found}")


def _falls(
    challenger: Mapping[str, Any], champion: Mapping[str, Any], metric: str, bound: float | None
) -> Iterator[Check]:
    """Each class that falls too far; else the one that falls most."""
    family = HEADLINE_BY_CLASS.get(metric)
    if bound is None or family is None:
        return
    gains = {}
    for name in classes(champion, family):
        before = number(champion, f"{family}.{name}")
        if before is not None:  # what the champion has not, cannot fall
            now = number(challenger, f"{family}.{name}")
            # On the same images a class is undefined for both or for none; for one alone it is lost.
            gains[name] = (before, now or 0.0)
    fallen = {name: pair for name, pair in gains.items() if pair[0] - pair[1] > bound + EPSILON}
    for name, (before, now) in fallen.items():
        change = f"{family}.{name} falls from {before:.6g} to {now:.6g}"
        yield Check(rule="class drop", holds=False, said=f"{change}, by more than max_class_drop {bound:g}")
    if gains and not fallen:
        worst = min(gains, key=lambda name: gains[name][1] - gains[name][0])
        least = f"{family}.{worst} {gains[worst][1] - gains[worst][0]:+.6g}"
        yield Check(rule="class drop", holds=True, said=f"no class falls by more than {bound:g}; least: {least}")
