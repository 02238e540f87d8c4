"""Seeded region growing: Zucker, "Region growing: childhood and adolescence", CGIP 1976; Adams, Bischof, "Seeded region
growing", PAMI 1994.

The flattest pixel that belongs to no region yet is the next seed, and takes all that is connected with it and has its
colour but for a tolerance. What grew too little is no region: the others flood it. Deviation from Adams and Bischof: a
pixel is held against the seed's colour, not the region's mean, and regions grow one after the other. Settings: the
tolerance (CIELAB, per channel). Fitted: the labeller's colours and places.
"""

import cv2
import numpy as np

from pipelines.models.classical.base import Regions
from pipelines.models.classical.pieces import edges, smooth_lab, without_small

LEAST = 20  # pixels of a region


def grown(colours: np.ndarray, order: np.ndarray, tolerance: float) -> np.ndarray:
    """float32[h, w, 3], the pixels' indices in the order in which they may be seeds -> int[h, w] from 0."""
    height, width = colours.shape[:2]
    regions = np.full((height, width), -1)
    taken = np.zeros((height + 2, width + 2), np.uint8)  # OpenCV wants a border; 1: in a region, 2: in the newest
    flags = cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (2 << 8)
    count = 0
    for seed in order.tolist():
        y, x = divmod(seed, width)
        if taken[y + 1, x + 1]:
            continue
        *_, (left, top, wide, high) = cv2.floodFill(
            colours, taken, (x, y), 0, (tolerance,) * 3, (tolerance,) * 3, flags
        )
        box = taken[top + 1 : top + 1 + high, left + 1 : left + 1 + wide]
        regions[top : top + high, left : left + wide][box == 2] = count
        box[box == 2] = 1
        count += 1
    return regions


class RegionGrowing(Regions):
    longest = 240
    settings = (4.0, 8.0, 16.0)

    def regions(self, image: np.ndarray, setting: float) -> np.ndarray:
        colours = smooth_lab(image, 1.0)
        order = np.argsort(edges(colours), axis=None, kind="stable")
        return without_small(grown(colours, order, setting), colours, LEAST)
