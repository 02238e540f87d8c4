"""A number in 0..1 becomes a value of a range, and a set of values: what is drawn at random goes through here."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.config import space as spaces


def value_at(range_: spaces.Range, share: float) -> Any:
    """The value at that share (0..1, 1 excluded) of the range, each value or decade as likely as the others."""
    if (points := range_.points()) is not None:
        return points[int(share * len(points))]
    low, high = range_.values
    if range_.kind == "loginteger":
        return min(int(math.exp(_between(math.log(low), math.log(high + 1), share))), high)
    if range_.kind == "loguniform":
        return tidy(range_, math.exp(_between(math.log(low), math.log(high), share)))
    return tidy(range_, _between(low, high, share))


def tidy(range_: spaces.Range, value: float) -> Any:
    """Within the range, whole where it is of whole numbers or steps; else of four digits: what best.yaml says is what
    was run, and can be read."""
    low, high = range_.values
    if range_.kind == "loginteger":
        return min(max(round(value), low), high)
    if (points := range_.points()) is not None:
        return min(points, key=lambda point: abs(point - value))
    return min(max(float(f"{value:.4g}"), float(low)), float(high))


def draw(space: spaces.Space, random: np.random.Generator) -> dict[str, Any]:
    """Values of all that matters. What does not matter draws too, so that one range does not move the others' draws."""
    values: dict[str, Any] = {}
    for name, range_ in space.items():
        value = value_at(range_, random.random())
        if spaces.active(range_, values):
            values[name] = value
    return values


def of_the_file(space: spaces.Space, raw: Mapping[str, Any]) -> dict[str, Any]:
    """What params.yaml itself says there."""
    from pipelines.config import get

    values: dict[str, Any] = {}
    for name, range_ in space.items():
        if spaces.active(range_, values):
            values[name] = get(raw, name)
    return values


def _between(low: float, high: float, share: float) -> float:
    return low + share * (high - low)
