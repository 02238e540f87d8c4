"""Active contours without edges: Chan, Vese, IEEE TIP 2001, in its morphological form: Marquez-Neila, Baumela, Alvarez,
"A morphological approach to curvature-based evolution of curves and surfaces", PAMI 2014 (scikit-image's).

A contour moves until the mean inside and the mean outside explain the image best, and stays smooth. Here each class
has one, on the map of its probability, beginning where the labeller says that the class is. Settings: how much it is
smoothed. Fitted: the labeller's colours and places.
"""

import numpy as np
from skimage.segmentation import morphological_chan_vese

from pipelines.models.classical.base import Contours

STEPS = 10


class ActiveContour(Contours):
    longest = 160
    settings = (1, 2, 3)

    def claim(self, image: np.ndarray, scores: np.ndarray, of: int, setting: int) -> np.ndarray:
        begin = scores.argmax(axis=0) == of
        inside: np.ndarray = morphological_chan_vese(np.exp(scores[of]), STEPS, begin, smoothing=setting)
        return inside.astype(bool)
