"""K-means clustering: Lloyd, "Least squares quantization in PCM", IEEE Trans. Inf. Theory 1982, with the seeds of
Arthur, Vassilvitskii, "k-means++", SODA 2007 (OpenCV's).

Pixels are clustered by colour (CIELAB) and, weighted, position; a cluster is a region, connected or not, which the
labeller names. Settings: the number of clusters and the weight of position. Fitted: the labeller's colours and places.
"""

import cv2
import numpy as np

from pipelines.models.classical.base import Regions
from pipelines.models.classical.pieces import smooth_lab


class KMeans(Regions):
    longest = 160
    settings = ((4, 0.0), (16, 0.0), (16, 1.0), (64, 1.0))

    def regions(self, image: np.ndarray, setting: tuple[int, float]) -> np.ndarray:
        clusters, weight = setting
        height, width = image.shape[:2]
        places = np.moveaxis(np.indices((height, width)), 0, 2) * (255 * weight / max(height, width))
        points = np.concatenate([smooth_lab(image, 1.0), places], axis=2, dtype=np.float32).reshape(-1, 5)
        cv2.setRNGSeed(0)  # k-means++ draws: the same image, the same clusters
        criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_MAX_ITER, 10, 0.5)
        clusters = min(clusters, len(points))
        _, labels, _ = cv2.kmeans(points, clusters, None, criteria, 1, cv2.KMEANS_PP_CENTERS)
        found: np.ndarray = labels.reshape(height, width)
        return found
