"""The sizes of segments that failures are told apart by: COCO's small, medium and large, each in two."""

import numpy as np

# Lower bounds of a segment's size, the side in pixels of a square of its area; COCO's are 0, 32 and 96.
BOUNDS = (0, 16, 32, 64, 96, 192)
NAMES = ("< 16", "16–32", "32–64", "64–96", "96–192", "≥ 192")
COCO = {"small": (0, 1), "medium": (2, 3), "large": (4, 5)}


def of(areas: np.ndarray) -> np.ndarray:
    """int[n] pixels -> int64[n] places in NAMES; what lies on a bound belongs to the larger."""
    bounds = np.array(BOUNDS[1:], np.int64) ** 2
    return np.searchsorted(bounds, areas, side="right").astype(np.int64)
