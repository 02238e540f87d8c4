"""Optical flow between neighbouring frames (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV
2016, as OpenCV has it), and what is carried along it.
"""

import cv2
import numpy as np

FINEST = 0  # the scale at which it ends: whole pixels
SMALLEST = 16  # pixels: the method's patches need room


class Flow:
    """From each frame to the one before it."""

    def __init__(self) -> None:
        self.engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.engine.setFinestScale(FINEST)
        self.before: np.ndarray | None = None

    def step(self, image: np.ndarray) -> np.ndarray | None:
        """uint8[h, w, 3] -> float32[h, w, 2]: by how many pixels, x and y, each one's origin in the frame before lies
        beside it. None for the first frame, and for frames that are too small."""
        grey, before = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self.before
        self.before = grey
        if before is None or min(grey.shape) < SMALLEST:
            return None
        found: np.ndarray = self.engine.calc(grey, before, None)
        return found


def warp(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """float32[h, w] or [h, w, c] of the frame before -> of this one; what comes from outside repeats the border."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved: np.ndarray = cv2.remap(
        values, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.reshape(values.shape)
