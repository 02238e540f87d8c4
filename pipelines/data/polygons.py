"""Polygons to run lengths: exactly the pixels that COCO's own tools give (pycocotools, `rleFrPoly`).

The outline is drawn on a grid five times as fine, and a column of pixels changes where the outline passes the column's
middle. Only these places are computed, all at once: no mask and no outline is ever held, so time and memory follow
from the columns that are crossed, and a polygon that leaves the image costs what lies in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.data import rle
from pipelines.data.faults import FaultError

SCALE = 5
MAX_COORDINATE = 1 << 26  # no image is wider
MAX_CROSSINGS = 1 << 22  # of edges and columns, in one polygon


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """The pixels of an object's polygons, and what was changed about them."""

    counts: np.ndarray  # uint32[n] run lengths
    changes: tuple[tuple[str, str], ...] = ()  # kind of fault, what was done


def fill(polygons: Sequence[Any], height: int, width: int) -> Filled:
    """The union of polygons from outside, each a flat list x, y, x, y, ... or a list of points, within the image."""
    outlines = [outline(polygon) for polygon in polygons]
    parts = [points for points in outlines if len(points) >= 3]
    if not parts:
        raise FaultError("bad-polygon", f"a polygon of {max(map(len, outlines), default=0)} points, expected 3 or more")
    changes = []
    if len(parts) < len(outlines):
        changes.append(("degenerate-part", f"{len(outlines) - len(parts)} of {len(outlines)} parts left out: no area"))
    where = [lies(points, height, width) for points in parts]
    if set(where) == {"outside"}:
        raise FaultError("outside-image", f"lies wholly outside the image of {width}x{height}")
    if set(where) != {"inside"}:
        changes.append(("clipped", f"reaches out of the image of {width}x{height}, clipped"))
    inside = [counts(points, height, width) for points, at in zip(parts, where, strict=True) if at != "outside"]
    return Filled(counts=rle.union(inside), changes=tuple(changes))


def outline(values: Any) -> np.ndarray:
    """A list from outside -> float64[n, 2], finite and bounded."""
    try:
        points = np.asarray(values)
    except ValueError:  # lists of different lengths
        points = np.zeros(0, object)
    if points.ndim == 1 and points.size % 2 == 0 and (points.size == 0 or points.dtype.kind in "if"):
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "if":
        raise FaultError("bad-polygon", "a polygon must be a list of numbers, an x and a y for each point")
    points = points.astype(np.float64)
    if not np.isfinite(points).all():
        raise FaultError("bad-polygon", "a polygon has coordinates that are not finite")
    if (most := np.abs(points).max(initial=0)) > MAX_COORDINATE:
        raise FaultError("bad-polygon", f"a polygon has the coordinate {most:.0f}, over limit {MAX_COORDINATE}")
    return points


def lies(points: np.ndarray, height: int, width: int) -> str:
    """ "inside", "outside", or "across" the image's border by half a pixel or more."""
    low, high, size = points.min(0), points.max(0), np.array([width, height])
    if (high < 0).any() or (low > size).any():
        return "outside"
    return "inside" if (low > -0.5).all() and (high < size + 0.5).all() else "across"


def counts(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """float64[n, 2] of x and y -> the run lengths of the polygon's pixels."""
    x0, y0 = (SCALE * points + 0.5).astype(np.int64).T  # towards zero, as C does
    x1, y1 = (np.concatenate([values[1:], values[:1]]) for values in (x0, y0))
    steep = np.abs(x1 - x0) < np.abs(y1 - y0)  # goes in steps of one along y, others along x
    swap = np.where(steep, y0 > y1, x0 > x1)
    x0, x1, y0, y1 = (np.where(swap, b, a) for a, b in ((x0, x1), (x1, x0), (y0, y1), (y1, y0)))
    slope = np.where(steep, x1 - x0, y1 - y0) / np.maximum(np.where(steep, y1 - y0, x1 - x0), 1)
    edge, column = _crossings(x0, x1, width)
    row = np.empty(edge.size, np.int64)
    for chosen, rows in ((~steep[edge], _flat_rows), (steep[edge], _steep_rows)):
        at = edge[chosen]
        row[chosen] = rows(x0[at], y0[at], slope[at], column[chosen])
    # The first pixel whose middle is not above the crossing.
    first = np.ceil(np.clip((row + 0.5) / SCALE - 0.5, 0, height)).astype(np.int64)
    return rle.from_edges(column * height + first, height * width)


def _crossings(x0: np.ndarray, x1: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Every edge with every column whose middle, between 5 c + 2 and 5 c + 3, it passes."""
    left, right = np.minimum(x0, x1), np.maximum(x0, x1)
    lowest = np.maximum(-((2 - left) // SCALE), 0)
    highest = np.minimum((right - 3) // SCALE, width - 1)
    many = np.maximum(highest - lowest + 1, 0)
    if (total := int(many.sum())) > MAX_CROSSINGS:
        raise FaultError("bad-polygon", f"a polygon crosses {total} columns, over limit {MAX_CROSSINGS}")
    edge = np.repeat(np.arange(many.size), many)
    step = np.arange(total) - np.repeat(np.cumsum(many) - many, many)
    return edge, lowest[edge] + step


def _flat_rows(x: np.ndarray, y: np.ndarray, slope: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The fine row at which an edge that goes by columns passes: the upper one of both sides."""
    step = SCALE * column + 2 - x
    before, after = ((y + slope * t + 0.5).astype(np.int64) for t in (step, step + 1))
    upper: np.ndarray = np.minimum(before, after)
    return upper


def _steep_rows(x: np.ndarray, y: np.ndarray, slope: np.ndarray, column: np.ndarray) -> np.ndarray:
    """The fine row at which an edge that goes by rows passes: the last one before its column changes."""
    middle = SCALE * column + 3
    step: np.ndarray = np.ceil((middle - 0.5 - x) / slope).astype(np.int64) - 1
    for _ in range(2):  # the division rounds: look where the outline itself, rounded as COCO does, has passed
        passed = ((x + slope * step + 0.5).astype(np.int64) >= middle) == (slope > 0)
        step += ~passed
    last: np.ndarray = y + step - 1
    return last
