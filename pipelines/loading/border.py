"""U-Net's weight of each pixel (Ronneberger et al. 2015, arXiv 1505.04597, eq. 2): where two things come close, the
ground between them weighs more, so that they are learned as two.

    1 + weight x exp(-(d1 + d2)^2 / (2 sigma^2))

with the distances to the nearest thing and to the second nearest, in pixels, from middle to middle. The paper's class
weight w_c belongs to the losses here (`class_weights`), so that 1 stands in its place. As in the paper's maps the
border is of ground alone: a pixel of a thing weighs 1, whatever touches it, and one of a crowd too, though a crowd is
no thing to be near to. Only what the crop shows of the things counts.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.loading.instances import Instances


@dataclass(frozen=True, kw_only=True, slots=True)
class Border:
    """Called for the instances of a crop."""

    weight: float
    sigma: float

    @property
    def reach(self) -> int:
        """The distance beyond which float32 cannot tell the weight from 1."""
        return math.ceil(self.sigma * math.sqrt(2 * math.log(max(self.weight * 2**24, 1))))

    def __call__(self, instances: Instances, height: int, width: int) -> np.ndarray:
        """float32[height, width]"""
        covered = np.zeros((height, width), bool)
        nearest, second = (np.full((height, width), np.inf, np.float32) for _ in range(2))
        for (x1, y1, x2, y2), mask, iscrowd in instances:
            covered[y1:y2, x1:x2] |= mask
            if iscrowd:
                continue
            # A transform of what lies around each thing: hundreds of them are a few transforms of the whole crop.
            top, left = max(y1 - self.reach, 0), max(x1 - self.reach, 0)
            around = np.s_[top : y2 + self.reach, left : x2 + self.reach]
            away = np.ones(covered[around].shape, np.uint8)
            away[y1 - top : y2 - top, x1 - left : x2 - left] -= mask
            distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            first, next_ = nearest[around], second[around]
            np.minimum(next_, np.maximum(first, distance), out=next_)
            np.minimum(first, distance, out=first)
        # OpenCV has two transforms, and its number of threads decides which one runs: they differ in the last bits,
        # and the trainer's process from a loader's. The squares are whole numbers, and the same in both.
        nearest, second = (np.sqrt(np.rint(distance**2)) for distance in (nearest, second))
        weights = 1 + self.weight * np.exp(-((nearest + second) ** 2) / (2 * self.sigma**2))
        return np.where(covered, np.float32(1), weights)
