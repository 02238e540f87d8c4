"""The kinds of things: a signed distance, a pattern and a relief each.

Signed distances (negative inside) follow Quilez, "2D distance functions" (iquilezles.org); u points right, v down, and
every form fits the unit circle. One distance field gives the mask, the antialiased edge, the relief and the shadow.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Field = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing:
    """One row of the table of things."""

    name: str
    color: tuple[int, int, int]
    hue: float  # what its colours scatter around, 0..1
    distance: Field
    pattern: Field  # the weight of the second colour, 0..1
    bevel: float  # how far from the edge the surface bends
    gloss: float


def _length(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(x, y))


def _band(x: np.ndarray, gain: float) -> np.ndarray:
    """1 where x is positive, 0 where negative, with a ramp in between."""
    return np.asarray(np.clip(0.5 + gain * x, 0, 1))


def _both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The distance to where two forms meet."""
    return np.asarray(np.maximum(a, b))


def _ball(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _length(u, v) - 0.86


def _ball_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _band(np.sin(3 * np.arctan2(v + 0.25, u + 0.2)), 5)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.abs(_length(u, v) - 0.68) - 0.25


def _ring_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _band(np.sin(4 * np.arctan2(v, u)), 4)


def _starfish(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    cos, sin = np.cos(np.pi / 5), np.sin(np.pi / 5)
    x, y = np.abs(u), -v
    for side in (1, -1):  # fold the plane into one half of one arm
        fold = 2 * np.maximum(side * cos * x - sin * y, 0)
        x, y = x - fold * side * cos, y + fold * sin
    x, y = np.abs(x), y - 0.9
    inner = 0.4
    edge_x, edge_y = inner * sin, inner * cos - 1
    along = np.clip((x * edge_x + y * edge_y) / (edge_x**2 + edge_y**2), 0, 0.9)
    distance = _length(x - edge_x * along, y - edge_y * along)
    return np.where(y * edge_x > x * edge_y, distance, -distance) - 0.09


def _starfish_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return 0.6 * _band(np.sin(11 * u) * np.sin(11 * v) - 0.35, 3)


def _sole(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both soles folded onto one; they are a little apart along v."""
    return np.abs(u) - 0.43, v - np.where(u > 0, 0.1, -0.1)


def _sandals(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = _sole(u, v)
    along = np.clip((y + 0.52) / 1.04, 0, 1)
    return _length(x, y + 0.52 - 1.04 * along) - (0.29 - 0.07 * along)


def _sandals_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = _sole(u, v)
    return _band(0.09 - np.abs(y + 0.42 - 1.7 * np.abs(x)), 8)


def _towel(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x, y = np.abs(u) - 0.42, np.abs(v) - 0.86
    return np.asarray(_length(np.maximum(x, 0), np.maximum(y, 0)) + np.minimum(_both(x, y), 0) - 0.05)


def _towel_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _band(np.sin(12 * v), 2)


def _kite(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    x = np.abs(u)
    return _both((0.7 * x - 0.66 * v - 0.66) / 0.962, (1.3 * x + 0.66 * v - 0.66) / 1.458)


def _kite_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _band(u * (v + 0.3), 25)


def _melon(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return _both(_length(u, v + 0.42) - 0.92, -0.42 - v)


def _melon_pattern(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    radius = _length(u, v + 0.42)
    seeds = np.sin(8 * np.arctan2(v + 0.42, u)) - 5 * np.abs(radius - 0.5) - 0.4
    return np.asarray(np.maximum(_band(radius - 0.76, 12), _band(seeds, 3)))


THINGS = (
    Thing(name="ball", color=(220, 20, 60), hue=0.98, distance=_ball, pattern=_ball_pattern, bevel=0.86, gloss=0.7),
    Thing(name="ring", color=(255, 200, 0), hue=0.13, distance=_ring, pattern=_ring_pattern, bevel=0.25, gloss=0.6),
    Thing(
        name="starfish",
        color=(255, 120, 20),
        hue=0.06,
        distance=_starfish,
        pattern=_starfish_pattern,
        bevel=0.3,
        gloss=0.1,
    ),
    Thing(
        name="sandals",
        color=(120, 60, 200),
        hue=0.75,
        distance=_sandals,
        pattern=_sandals_pattern,
        bevel=0.1,
        gloss=0.1,
    ),
    Thing(name="towel", color=(250, 130, 200), hue=0.88, distance=_towel, pattern=_towel_pattern, bevel=0.06, gloss=0),
    Thing(name="kite", color=(0, 220, 220), hue=0.5, distance=_kite, pattern=_kite_pattern, bevel=0.3, gloss=0.3),
    Thing(name="melon", color=(140, 0, 70), hue=0.4, distance=_melon, pattern=_melon_pattern, bevel=0.12, gloss=0.3),
)
