"""Moving shapes: videos drawn from a seed, with every object's identity in every frame known.

A scene is one of `shapes` whose things move: each drifts, turns and breathes at a pace of its own, and comes back
once it has left the frame. They hide each other as their layers say; what shows less than a fifth of itself counts as
hidden, in the picture too. Ground, light and the fixed pattern of the camera stay; a little noise is new in each
frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pipelines.data.formats.shapes.layout import Item, Layout, arrange
from pipelines.data.formats.shapes.render import MIN_PIXELS, paint, place
from pipelines.data.formats.shapes.textures import STUFF, ground, terrain

SPEED = (0.004, 0.026)  # of the shorter side, per frame
TURN, BREATH = 0.06, 0.12  # radians per frame; of the radius
BEYOND = 1.4  # radii from the frame at which a thing turns back
FLICKER = 0.012  # the deviation of what is new in each frame, of 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """One frame."""

    image: np.ndarray  # uint8[h, w, 3] RGB
    ids: np.ndarray  # uint8[h, w]: which object each pixel shows, 0 for the ground


@dataclass(frozen=True, kw_only=True, slots=True)
class Movie:
    """A scene before it is drawn; object k is `layout.items[k - 1]`."""

    layout: Layout
    motion: np.ndarray  # float64[items, 5]: velocity of x and y in pixels, of the angle; breath's pace and phase
    seed: tuple[int, ...]
    frames: int

    @property
    def categories(self) -> dict[int, int]:
        """Object -> class id in the table of `shapes`."""
        return {k: len(STUFF) + item.kind for k, item in enumerate(self.layout.items, start=1)}

    def __iter__(self) -> Iterator[Drawn]:
        height, width = self.layout.height, self.layout.width
        inland, levels = terrain(np.random.default_rng((*self.seed, 1)), height, width)
        for k in range(self.frames):
            # The same numbers for every frame: what is not moved is the same.
            image, _ = ground(np.random.default_rng((*self.seed, 2)), inland, levels, self.layout.difficulty)
            layout = replace(self.layout, items=tuple(self.items(k)))
            patches, groups = place(layout)
            image = paint(np.random.default_rng((*self.seed, 3)), image, patches, layout)
            noise = np.random.default_rng((*self.seed, 4, k)).standard_normal(image.shape, np.float32)
            image = np.clip(image + 255 * FLICKER * noise + 0.5, 0, 255).astype(np.uint8)
            yield Drawn(image=image, ids=_ids(groups))

    def items(self, k: int) -> Iterator[Item]:
        """Those that reach into the frame."""
        height, width = self.layout.height, self.layout.width
        for item, (dx, dy, turn, pace, phase) in zip(self.layout.items, self.motion, strict=True):
            x, y = (
                _there_and_back(start + k * step, BEYOND * item.radius, side)
                for start, step, side in ((item.x, dx, width), (item.y, dy, height))
            )
            radius = item.radius * (1 + BREATH * np.sin(phase + k * pace))
            if -radius < x < width + radius and -radius < y < height + radius:
                yield replace(item, x=float(x), y=float(y), radius=float(radius), angle=float(item.angle + k * turn))


def movie(index: int, *, seed: int, frames: int, height: int, width: int, difficulty: float) -> Movie:
    """A pure function of the arguments."""
    rng = np.random.default_rng((seed, index, 0))
    layout = arrange(rng, height=height, width=width, difficulty=difficulty)
    things = [item for item in layout.items if not item.iscrowd]
    items = tuple(replace(item, group=k) for k, item in enumerate(things, start=1))
    speed, heading = rng.uniform(*SPEED, len(items)) * layout.side, rng.uniform(0, 2 * np.pi, len(items))
    motion = np.stack(
        [
            speed * np.cos(heading),
            speed * np.sin(heading),
            rng.uniform(-TURN, TURN, len(items)),
            rng.uniform(0.1, 0.4, len(items)),
            rng.uniform(0, 2 * np.pi, len(items)),
        ],
        axis=1,
    )
    still = replace(layout, items=items, bordered=False, glare=None)
    return Movie(layout=still, motion=motion, seed=(seed, index), frames=frames)


def _ids(groups: np.ndarray) -> np.ndarray:
    """What is left of a thing in a few pixels is none, as in `shapes`."""
    sizes = np.bincount(groups.reshape(-1))
    kept = np.where(sizes >= MIN_PIXELS, np.arange(sizes.size), 0).astype(np.uint8)
    found: np.ndarray = kept[groups]
    return found


def _there_and_back(x: float, margin: float, side: int) -> float:
    """Reflected at `margin` beyond both ends of the frame."""
    span = side + 2 * margin
    at = (x + margin) % (2 * span)
    return min(at, 2 * span - at) - margin
