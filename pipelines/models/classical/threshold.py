"""Global thresholding: Otsu, "A threshold selection method from gray-level histograms", IEEE SMC 1979; with more than
one threshold, Liao, Chen, Chung, "A fast algorithm for multilevel thresholding", 2001 (scikit-image's).

The thresholds part the grey values of an image so that the variance between the levels is largest. Settings: the
number of levels. Fitted: how often each class has each level, hence also whether a class is the dark or the bright one;
a class that prevails in none is never found. An image with fewer grey values than levels has as many levels as values.
"""

from typing import ClassVar

import numpy as np
from skimage.filters import threshold_multiotsu

from pipelines.models.classical.base import Levels
from pipelines.models.classical.labeller import grey


class Threshold(Levels):
    settings = (2, 3, 4)
    codes: ClassVar = {"level": 1 + 2 + 3 + 4}  # the bright one of two is another than the middle one of three

    def levels(self, image: np.ndarray, setting: int) -> np.ndarray:
        values = grey(image)
        count = min(setting, len(np.unique(values)))
        thresholds = threshold_multiotsu(values, count) if count > 1 else []
        level: np.ndarray = count * (count - 1) // 2 + np.digitize(values, thresholds, right=True)
        return level
