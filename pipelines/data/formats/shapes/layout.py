"""What is in an image: which things, where, how large, in what colours, and which hides which."""

import colorsys
from dataclasses import dataclass, replace

import numpy as np

from pipelines.data.formats.shapes.forms import THINGS

CROWDS, BORDERS, GLARES = 0.12, 0.2, 0.12  # the share of images with each (crowds and glares: at difficulty 1)
MIN_RADIUS = 3.0  # pixels: below it no form can be told

Circle = tuple[float, float, float]  # x, y, radius, in pixels


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing, or one member of a crowd."""

    kind: int  # row of THINGS
    x: float  # of the centre, in pixels
    y: float
    radius: float  # in pixels
    angle: float
    colors: tuple[tuple[float, float, float], tuple[float, float, float]]
    iscrowd: bool = False
    group: int = 1  # counts from back to front; the members of a crowd share one


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """One image before it is drawn."""

    height: int
    width: int
    difficulty: float
    items: tuple[Item, ...]  # from back to front
    bordered: bool  # whether the truth has an ignored border around every thing
    glare: Circle | None  # an overexposed patch

    @property
    def side(self) -> int:
        """What lengths are fractions of."""
        return min(self.height, self.width)


def _hue(rng: np.random.Generator, around: float, spread: float) -> float:
    return float((around + rng.normal(0, spread)) % 1)


def _colors(
    rng: np.random.Generator, kind: int, difficulty: float
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """A saturated colour near the kind's own hue (the less so, the harder), and a second one, often whitish."""
    hue = _hue(rng, THINGS[kind].hue, 0.03 + 0.22 * difficulty**2)
    first = colorsys.hsv_to_rgb(hue, rng.uniform(0.6, 0.95), rng.uniform(0.65, 0.95))
    whitish = rng.random() < 0.5
    saturation = rng.uniform(0.02, 0.15) if whitish else rng.uniform(0.5, 0.9)
    second = colorsys.hsv_to_rgb(_hue(rng, hue + 0.45, 0.1), saturation, rng.uniform(0.75, 1.0))
    return first, second


def _radius(rng: np.random.Generator, difficulty: float) -> float:
    """As a fraction of the shorter side: log-uniform, with more small ones the harder it is."""
    low, high = 0.085 - 0.045 * difficulty, 0.26 - 0.02 * difficulty
    share = rng.random() ** (0.8 + 0.7 * difficulty)
    return float(low * (high / low) ** share)


def _position(
    rng: np.random.Generator, taken: list[Circle], radius: float, height: int, width: int, difficulty: float
) -> tuple[float, float]:
    """Beside everything else if there is room, or, the more often the harder it is, overlapping a thing."""
    margin = 0.5 * radius
    if taken and rng.random() < 0.1 + 0.45 * difficulty**2:
        x, y, other = taken[rng.integers(len(taken))]
        reach, angle = rng.uniform(0.35, 0.95) * (radius + other), rng.uniform(0, 2 * np.pi)
        x, y = x + reach * np.cos(angle), y + reach * np.sin(angle)
        return float(np.clip(x, margin, width - margin)), float(np.clip(y, margin, height - margin))
    best, best_room = (0.0, 0.0), -np.inf
    for x, y in rng.uniform((margin, margin), (width - margin, height - margin), (12, 2)).tolist():
        room = min((np.hypot(x - a, y - b) - radius - other for a, b, other in taken), default=0.0)
        if room > best_room:
            best, best_room = (x, y), room
        if room >= 0:
            break
    return best


def _crowd(rng: np.random.Generator, height: int, width: int, difficulty: float) -> tuple[list[Item], Circle]:
    """Small things of one kind, close together, and where they are."""
    side, kind = min(height, width), int(rng.integers(len(THINGS)))
    radius = max(rng.uniform(0.04, 0.055) * side, MIN_RADIUS)
    spread = radius * 3.2
    x, y = rng.uniform(spread, width - spread), rng.uniform(spread, height - spread)
    members = []
    for _ in range(int(rng.integers(9, 16))):
        reach, angle = spread * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        members.append(
            Item(
                kind=kind,
                x=float(x + reach * np.cos(angle)),
                y=float(y + reach * np.sin(angle)),
                radius=float(radius * rng.uniform(0.85, 1.15)),
                angle=float(rng.uniform(0, 2 * np.pi)),
                colors=_colors(rng, kind, difficulty),
                iscrowd=True,
            )
        )
    return members, (x, y, spread)


def arrange(rng: np.random.Generator, *, height: int, width: int, difficulty: float) -> Layout:
    """A random layout; larger things tend to lie behind smaller ones."""
    side = min(height, width)
    fewest, most = round(3 + 3 * difficulty**1.5), round(5 + 6 * difficulty**1.5)
    crowd: list[Item] = []
    placed: list[Item] = []
    taken: list[Circle] = []
    if rng.random() < CROWDS * difficulty:
        crowd, area = _crowd(rng, height, width, difficulty)
        taken.append(area)
    for _ in range(int(rng.integers(fewest, most + 1))):
        kind, radius = int(rng.integers(len(THINGS))), max(_radius(rng, difficulty) * side, MIN_RADIUS)
        x, y = _position(rng, taken, radius, height, width, difficulty)
        colors, angle = _colors(rng, kind, difficulty), float(rng.uniform(0, 2 * np.pi))
        placed.append(Item(kind=kind, x=x, y=y, radius=radius, angle=angle, colors=colors))
        taken.append((x, y, radius))
    order = np.argsort([-o.radius * rng.lognormal(0, 0.5) for o in placed])
    glare = None
    if rng.random() < GLARES * difficulty:
        glare = (rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.08, 0.16) * side)
    return Layout(
        height=height,
        width=width,
        difficulty=difficulty,
        items=(*crowd, *(replace(placed[i], group=group) for group, i in enumerate(order, start=2))),
        bordered=bool(rng.random() < BORDERS),
        glare=glare,
    )
