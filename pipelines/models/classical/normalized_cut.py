"""Normalised cut: Shi, Malik, "Normalized cuts and image segmentation", PAMI 2000 (scikit-image's), on superpixels.

Superpixels are the nodes of a graph, their colours' similarity the weight of its edges. It is cut in two where the cut
is cheapest in relation to what it cuts off, and so are the parts, as long as a cut costs less than a threshold; the
labeller names the parts. The paper cuts a graph of pixels, which takes minutes. Settings: the threshold and the number
of superpixels. Fitted: the labeller's colours and places.
"""

import numpy as np
from skimage import graph
from skimage.segmentation import slic

from pipelines.models.classical.base import Regions
from pipelines.models.classical.labeller import lab

SIMILAR = 200.0  # squared distance in CIELAB (0..255) at which similarity has fallen to 1 / e


class NormalizedCut(Regions):
    longest = 200
    settings = ((0.01, 150), (0.1, 150), (0.5, 150))

    def regions(self, image: np.ndarray, setting: tuple[float, int]) -> np.ndarray:
        threshold, count = setting
        pixels = slic(image, n_segments=count, compactness=10.0, start_label=0)
        similarity = graph.rag_mean_color(lab(image), pixels, mode="similarity", sigma=SIMILAR)
        parts: np.ndarray = graph.cut_normalized(pixels, similarity, thresh=threshold, rng=0)
        return parts
