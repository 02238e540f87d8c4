"""SLIC superpixels: Achanta et al., "SLIC superpixels compared to state-of-the-art superpixel methods", PAMI 2012
(scikit-image's).

K-means of colour (CIELAB) and position, each centre looking no further than its surroundings: regions of like size
that follow edges, which the labeller names. Settings: their number and their compactness, the weight of position.
Fitted: the labeller's colours and places.
"""

import numpy as np
from skimage.segmentation import slic

from pipelines.models.classical.base import Regions


class Superpixels(Regions):
    settings = ((100, 10.0), (300, 10.0), (300, 20.0), (1000, 10.0))

    def regions(self, image: np.ndarray, setting: tuple[int, float]) -> np.ndarray:
        count, compactness = setting
        found: np.ndarray = slic(image, n_segments=count, compactness=compactness, start_label=0)
        return found
