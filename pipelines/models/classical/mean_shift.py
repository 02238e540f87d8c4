"""Mean shift: Comaniciu, Meer, "Mean shift: a robust approach toward feature space analysis", PAMI 2002 (OpenCV's
filter, in two levels of a pyramid).

Every pixel climbs to a mode of the density of colour and position; neighbours whose modes are near form a region, small
regions go to their neighbours, and the labeller names what is left. Settings: the bandwidths in space (pixels) and in
colour (CIELAB). Fitted: the labeller's colours and places.
"""

import cv2
import numpy as np

from pipelines.models.classical.base import Regions
from pipelines.models.classical.labeller import lab
from pipelines.models.classical.pieces import joined, without_small

LEAST = 20  # pixels of a region


class MeanShift(Regions):
    longest = 240
    settings = ((6, 8), (6, 16), (12, 16))

    def regions(self, image: np.ndarray, setting: tuple[int, int]) -> np.ndarray:
        space, colour = setting
        modes = cv2.pyrMeanShiftFiltering(lab(image), space, colour, maxLevel=1).astype(np.float32)
        return without_small(joined(modes, colour / 4), modes, LEAST)
