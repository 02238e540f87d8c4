"""Local (adaptive) thresholding: a pixel is held against the Gaussian mean of its surroundings, as in Bradley, Roth,
"Adaptive thresholding using the integral image", JGT 2007, and Niblack 1986 (scikit-image's `threshold_local`).

Uneven illumination, which moves a global threshold, cancels. Settings: the width of the surroundings, as a share of the
image's shorter side, and by how much a pixel must differ to be brighter or darker, not alike. Fitted: how often each
class is darker, alike and brighter.
"""

from typing import ClassVar

import numpy as np
from skimage.filters import threshold_local

from pipelines.models.classical.base import Levels
from pipelines.models.classical.labeller import grey


class LocalThreshold(Levels):
    longest = 512
    settings = ((0.125, 0), (0.125, 8), (0.5, 0), (0.5, 8), (1.0, 0), (1.0, 8))
    codes: ClassVar = {"level": 3}

    def levels(self, image: np.ndarray, setting: tuple[float, int]) -> np.ndarray:
        width, offset = setting
        values = grey(image).astype(np.float64)
        mean = threshold_local(values, 2 * max(1, round(width * min(values.shape) / 2)) + 1)
        # What rounding leaves of a flat image is no difference.
        level: np.ndarray = 1 + (values > mean + offset + 1e-6) - (values < mean - offset - 1e-6).astype(np.intp)
        return level
