"""Instance masks on their way from run lengths to a crop: only what the crop shows of them is ever drawn.

A sample holds them as bits within each one's box, so that hundreds of them are a few kilobytes; the dense masks that
models learn from are made last, where they are used.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.data import rle
from pipelines.data.schema import Segment
from pipelines.data.segments import Segments
from pipelines.loading.geometry import Axis, Window
from pipelines.targets import InstanceTargets

# An instance of which a crop leaves fewer pixels than this teaches nothing but noise.
MIN_PIXELS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Instances:
    """What a crop shows of an image's segments."""

    table: np.ndarray  # int32[n, 6]: class id, crowd or not, x1, y1, x2, y2
    bits: np.ndarray  # uint8[...]: the pixels of each box, column by column, one box after the other, packed

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray, bool]]:
        """The box of each, its mask there, bool[y2 - y1, x2 - x1], and whether it is a crowd."""
        boxes = self.table[:, 2:]
        sizes = boxes[:, 2:] - boxes[:, :2]
        ends = np.cumsum(sizes.prod(axis=1, dtype=np.int64))
        pixels = np.unpackbits(self.bits, count=int(ends[-1]) if ends.size else 0).view(bool)
        crowds = self.table[:, 1].astype(bool).tolist()
        for box, (width, height), end, iscrowd in zip(
            boxes.tolist(), sizes.tolist(), ends.tolist(), crowds, strict=True
        ):
            yield box, pixels[end - width * height : end].reshape(width, height).T, iscrowd

    def dense(self, height: int, width: int) -> InstanceTargets:
        """As tensors over the whole crop."""
        masks = np.zeros((len(self.table), height, width), bool)
        for mask, ((x1, y1, x2, y2), pixels, _) in zip(masks, self, strict=True):
            mask[y1:y2, x1:x2] = pixels
        return InstanceTargets(
            masks=torch.from_numpy(masks),
            labels=torch.from_numpy(self.table[:, 0].astype(np.int64)),
            boxes=torch.from_numpy(self.table[:, 2:].astype(np.float32)),
            iscrowd=torch.from_numpy(self.table[:, 1].astype(bool)),
        )


def cut(segments: Sequence[Segment], window: Window) -> Instances:
    """Each segment's nearest neighbours, as `Window.mask` takes them; too small rests are left out."""
    if not len(segments):
        return Instances(table=np.zeros((0, 6), np.int32), bits=np.zeros(0, np.uint8))
    arrays = Segments.of(segments)
    owner, column, top, bottom = rle.pieces(arrays.counts, arrays.offsets, window.y.source, window.x.source)
    rows, columns = _before(window.y), _before(window.x)
    top, bottom = rows[top], rows[bottom]
    left, right = columns[column], columns[column + 1]
    if window.flip:
        left, right = window.x.crop - right, window.x.crop - left
    seen = np.bincount(owner, weights=(bottom - top) * (right - left), minlength=len(arrays)) >= MIN_PIXELS
    keep = seen[owner] & (bottom > top) & (right > left)
    owner, left, right, top, bottom = (
        (np.cumsum(seen) - 1)[owner[keep]],
        left[keep],
        right[keep],
        top[keep],
        bottom[keep],
    )
    table = np.empty((int(seen.sum()), 6), np.int32)
    table[:, 0], table[:, 1] = arrays.category[seen], arrays.iscrowd[seen]
    if len(table):
        first = np.flatnonzero(np.diff(owner, prepend=-1))
        for k, (ufunc, side) in enumerate(
            ((np.minimum, left), (np.minimum, top), (np.maximum, right), (np.maximum, bottom)), start=2
        ):
            table[:, k] = ufunc.reduceat(side, first)
    return Instances(table=table, bits=_drawn(table[:, 2:].astype(np.int64), owner, left, right, top, bottom))


def _before(axis: Axis) -> np.ndarray:
    """int64[source + 1]: where in the crop what lies before each source pixel ends."""
    before: np.ndarray = np.searchsorted(axis.nearest(), np.arange(axis.source + 1)) + axis.shown.start
    return before


def _drawn(
    boxes: np.ndarray, owner: np.ndarray, left: np.ndarray, right: np.ndarray, top: np.ndarray, bottom: np.ndarray
) -> np.ndarray:
    """Rectangles of crop pixels, each within its owner's box -> the packed bits of all boxes."""
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    ends = np.cumsum(width * height)
    # A pixel column of a rectangle is one run of its box.
    wide = right - left
    at = np.repeat(np.arange(owner.size), wide)
    column = left[at] + np.arange(at.size) - np.repeat(np.cumsum(wide) - wide, wide)
    mine = owner[at]
    origin = (ends - width * height)[mine] + (column - boxes[mine, 0]) * height[mine] - boxes[mine, 1]
    steps = np.zeros((int(ends[-1]) if ends.size else 0) + 1, np.int8)
    steps[origin + top[at]] += 1  # no two runs begin, and no two end, at the same pixel
    steps[origin + bottom[at]] -= 1
    return np.packbits(np.cumsum(steps[:-1], dtype=np.int8).view(np.uint8))
