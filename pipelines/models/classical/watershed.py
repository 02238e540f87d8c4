"""Marker-controlled watershed: Vincent, Soille, "Watersheds in digital spaces", PAMI 1991; Meyer, Beucher,
"Morphological segmentation", JVCIR 1990 (scikit-image's flooding).

The strength of colour edges is a relief. It is flooded from its minima, and where two floods meet lies a region's
border; the labeller names the regions. Settings: how far the image is blurred first, on which the number of minima
depends. Fitted: the labeller's colours and places.
"""

import numpy as np
from skimage.segmentation import watershed

from pipelines.models.classical.base import Regions
from pipelines.models.classical.pieces import edges, smooth_lab


class Watershed(Regions):
    settings = (1.0, 2.0, 4.0)

    def regions(self, image: np.ndarray, setting: float) -> np.ndarray:
        basins: np.ndarray = watershed(edges(smooth_lab(image, setting)))
        return basins
