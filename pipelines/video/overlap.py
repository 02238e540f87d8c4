"""How much the masks of one frame overlap: dense, since they are looked at anyway."""

import numpy as np


def overlaps(ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool[a, h, w], bool[b, h, w] -> IoU float64[a, b]."""
    if not len(ones) or not len(others):
        return np.zeros((len(ones), len(others)))
    a, b = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (ones, others))
    shared = (a @ b.T).astype(np.float64)
    union = a.sum(axis=1)[:, None] + b.sum(axis=1) - shared
    found: np.ndarray = shared / np.maximum(union, 1)
    return found
