"""The mode method: Prewitt, Mendelsohn, "The analysis of cell images", Ann. N.Y. Acad. Sci. 1966.

The peaks of an image's grey histogram are its modes, the valleys between them the thresholds: as many as the image has.
The connected pieces of each mode are regions, which the labeller names. Settings: how far the histogram is smoothed,
in grey values. Fitted: the labeller's colours and places.
"""

from itertools import pairwise

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks
from skimage.measure import label

from pipelines.models.classical.base import Regions
from pipelines.models.classical.labeller import grey

PROMINENCE = 0.02  # of the highest peak: what rises less above its valleys is none


def valleys(values: np.ndarray, sigma: float) -> list[int]:
    """uint8[h, w] -> the grey values that part its modes: the lowest between two neighbouring peaks."""
    counts = np.pad(np.bincount(values.ravel(), minlength=256).astype(np.float64), 1)  # 0 and 255 may be peaks, too
    smooth = gaussian_filter1d(counts, sigma, mode="constant")
    peaks, _ = find_peaks(smooth, prominence=PROMINENCE * smooth.max())
    return [int(low + smooth[low:high].argmin()) - 1 for low, high in pairwise(peaks)]


class Histogram(Regions):
    settings = (2.0, 4.0, 8.0)

    def regions(self, image: np.ndarray, setting: float) -> np.ndarray:
        values = grey(image)
        pieces: np.ndarray = label(np.digitize(values, valleys(values, setting), right=True), background=-1)
        return pieces
