"""Joint augmentation of image, semantic map and instance masks.

The randomness of a sample is a function of (seed, epoch, index) and of nothing else: not of the number of workers,
not of what was drawn before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import albumentations as A
import numpy as np

from pipelines.data.schema import Record
from pipelines.loading.border import Border
from pipelines.loading.colour import ColorMatrix
from pipelines.loading.geometry import ScaleCrop
from pipelines.loading.instances import Instances, cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One augmented image with its truth."""

    id: str
    image: np.ndarray  # uint8[h, w, 3]
    semantic: np.ndarray  # uint8[h, w]
    instances: Instances
    border: np.ndarray | None = None  # float32[h, w]: the weight of each pixel, where it was asked for


class Augment:
    """Random scale, pad, crop, flip and colour; called as augment(record, image, key). With a `border`, its map too."""

    def __init__(
        self, *, crop: Sequence[int], scale: Sequence[float], flip: float, color: float, border: Border | None = None
    ):
        self.crop, self.border = (crop[0], crop[1]), border
        self.geometry = ScaleCrop(crop=crop, scale=scale, flip=flip)
        jitter = ColorMatrix(color, color, color, color / 4, p=0.8 if color else 0.0)
        self.compose = A.Compose([self.geometry, jitter], seed=0)

    def __call__(self, record: Record, image: np.ndarray, key: tuple[int, int, int]) -> Sample:
        """`key` is (seed, epoch, index)."""
        # One stream of numbers for all transforms: with a seed, each would draw the same ones, and what is small would
        # never be flipped.
        generator = np.random.default_rng(key)
        self.compose.set_random_state(generator, Random(int(generator.integers(2**63))))  # noqa: S311
        out = self.compose(image=image, mask=record.semantic)
        window = self.geometry.get_applied_params()["window"]
        instances = cut(record.segments, window)
        return Sample(
            id=record.id,
            image=out["image"],
            semantic=out["mask"],
            instances=instances,
            border=None if self.border is None else self.border(instances, *self.crop),
        )
