"""Random scale, pad, crop and flip as one resampling of the pixels that the crop shows.

Scale, place and flip are drawn first; then only the source window behind the crop is read. Four passes one after the
other would compute, and throw away, most of a scaled image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.transforms_interface import BaseTransformInitSchema
from albumentations.core.type_definitions import Targets

from pipelines.data.schema import IGNORE

# Pixels of the source by which an image may lie off its true place: what OpenCV's own warps round to.
SHIFT = 1 / 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One side of the image, scaled from `source` to `scaled` pixels, and of the crop, which starts at `start`."""

    source: int
    scaled: int
    start: int  # in the scaled image; negative where padding comes before it
    crop: int

    @property
    def first(self) -> int:
        """The first pixel of the scaled image that the crop shows."""
        return max(self.start, 0)

    @property
    def last(self) -> int:
        """The one behind the last that it shows."""
        return min(self.start + self.crop, self.scaled)

    @property
    def ratio(self) -> float:
        return self.source / self.scaled

    @property
    def shown(self) -> slice:
        """Where these pixels lie in the crop."""
        return slice(self.first - self.start, self.last - self.start)

    def nearest(self) -> np.ndarray:
        """int64[last - first]: the source pixel whose middle is nearest to that of each pixel shown."""
        nearest: np.ndarray = (2 * np.arange(self.first, self.last) + 1) * self.source // (2 * self.scaled)
        return nearest

    def window(self) -> tuple[int, int, int]:
        """(low, high, skip): the source pixels low..high, scaled alone, hold the crop's first pixel at `skip`.

        `cv2.resize` knows no offset, so the window starts at the last scaled pixel, no later than the first shown, of
        which the border falls on a border of source pixels. That is a few pixels before; pixel 0 always does.
        """
        # The first pixel shown has a neighbour before it, which must be in the window too.
        latest = max(self.first - math.ceil(0.5 / self.ratio - 0.5), 0)
        borders = np.arange(latest + 1) * self.ratio
        begin = int(np.flatnonzero(np.abs(borders - np.rint(borders)) <= SHIFT)[-1])
        high = math.floor((self.last - 0.5) * self.ratio - 0.5) + 2  # both neighbours of the last pixel
        return (
            round(begin * self.ratio),
            min(max(high, math.ceil(self.last * self.ratio)), self.source),
            self.first - begin,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """What was drawn for one image."""

    y: Axis
    x: Axis
    flip: bool

    @property
    def size(self) -> tuple[int, int]:
        return self.y.crop, self.x.crop

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """uint8[h, w, c] -> the crop, linearly interpolated; padding is 0."""
        (top, bottom, down), (left, right, across) = self.y.window(), self.x.window()
        scaled = cv2.resize(
            pixels[top:bottom, left:right],
            None,
            fx=1 / self.x.ratio,
            fy=1 / self.y.ratio,
            interpolation=cv2.INTER_LINEAR,
        )
        rows, columns = self.y.last - self.y.first, self.x.last - self.x.first
        return self._placed(scaled[down : down + rows, across : across + columns], fill=0)

    def mask(self, labels: np.ndarray, fill: int = IGNORE) -> np.ndarray:
        """uint8[h, w] -> the crop, of each pixel's nearest neighbour; padding is `fill`."""
        rows, columns = self.y.nearest(), self.x.nearest()
        top, left = int(rows[0]), int(columns[0])
        window, rows, columns = labels[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1], rows - top, columns - left
        # Whole rows are cheap to copy and single pixels are not, so the columns are taken as rows of the transpose.
        return self._placed(cv2.transpose(cv2.transpose(window[rows])[columns]), fill=fill)

    def _placed(self, shown: np.ndarray, fill: int) -> np.ndarray:
        if self.flip:
            shown = cv2.flip(shown, 1)
        if shown.shape[:2] == self.size:
            return np.ascontiguousarray(shown)
        crop = np.full((*self.size, *shown.shape[2:]), fill, shown.dtype)
        columns = self.x.shown
        if self.flip:
            columns = slice(self.x.crop - columns.stop, self.x.crop - columns.start)
        crop[self.y.shown, columns] = shown
        return crop


def draw(random: Random, size: tuple[int, int], *, crop: Sequence[int], scale: Sequence[float], flip: float) -> Window:
    """A scale uniform in `scale`, then uniform among the places that the crop can take in the scaled image; along a
    side on which that is smaller than the crop, among the places that it can take in the crop."""
    factor = random.uniform(*scale)
    y, x = (_place(random, source, max(1, int(source * factor)), side) for source, side in zip(size, crop, strict=True))
    return Window(y=y, x=x, flip=random.random() < flip)


def _place(random: Random, source: int, scaled: int, crop: int) -> Axis:
    room = scaled - crop
    start = random.randint(0, room) if room >= 0 else -random.randint(0, -room)
    return Axis(source=source, scaled=scaled, start=start, crop=crop)


class ScaleCrop(A.DualTransform):
    """The same as RandomScale, PadIfNeeded(position="random"), RandomCrop and HorizontalFlip in A.Compose, for images
    and masks of uint8; `fill_mask` is the padding of masks."""

    _targets = (Targets.IMAGE, Targets.MASK)

    class InitSchema(BaseTransformInitSchema):
        crop: Sequence[int]
        scale: Sequence[float]
        flip: float
        fill_mask: int

    def __init__(
        self, *, crop: Sequence[int], scale: Sequence[float], flip: float, fill_mask: int = IGNORE, p: float = 1.0
    ):
        super().__init__(p=p)
        self.crop, self.scale, self.flip, self.fill_mask = crop, scale, flip, fill_mask

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        return {"window": draw(self.py_random, (height, width), crop=self.crop, scale=self.scale, flip=self.flip)}

    def apply(self, img: np.ndarray, *args: Any, window: Window, **params: Any) -> np.ndarray:
        return window.image(img)

    def apply_to_mask(self, mask: np.ndarray, *args: Any, window: Window, **params: Any) -> np.ndarray:
        return window.mask(mask, self.fill_mask)
