"""GrabCut: Rother, Kolmogorov, Blake, SIGGRAPH 2004, after the graph cuts of Boykov, Jolly, ICCV 2001 (OpenCV's).

Gaussian mixtures of the foreground's and of the background's colours, and a minimum cut of the pixels' grid whose edges
are cheap where colours differ, in turns. The paper's user draws a box; here the labeller says where each class
probably is, and what is certain: where the class is all but sure, or all but excluded. Settings: from what probability
a pixel is certain. Fitted: the labeller's colours and places.
"""

import cv2
import numpy as np

from pipelines.models.classical.base import Contours

TURNS = 2


class GrabCut(Contours):
    settings = (0.9, 0.99, 1.0)  # 1: nothing is

    def claim(self, image: np.ndarray, scores: np.ndarray, of: int, setting: float) -> np.ndarray:
        probability, begin = np.exp(scores[of]), scores.argmax(axis=0) == of
        mask = np.where(begin, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        mask[probability > setting] = cv2.GC_FGD
        mask[(probability < 1 - setting) & ~begin] = cv2.GC_BGD
        cv2.setRNGSeed(0)  # the mixtures begin with k-means
        cv2.grabCut(image, mask, None, np.zeros((1, 65)), np.zeros((1, 65)), TURNS, cv2.GC_INIT_WITH_MASK)
        inside: np.ndarray = (mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)
        return inside
