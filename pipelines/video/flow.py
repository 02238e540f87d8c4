"""Optical flow between neighbouring frames (Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV
2016, as OpenCV has it), and what is carried along it.
"""

import cv2
import numpy as np

FINEST = 0  # the scale at which it ends: whole pixels
DOUBT = 1.0  # pixels between there and back again at which a flow is believed a third


class Flow:
    """From each frame to the one before it."""

    def __init__(self) -> None:
        self.engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self.engine.setFinestScale(FINEST)
        self.before: np.ndarray | None = None

    def step(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """uint8[h, w, 3] -> float32[h, w, 2], by how many pixels (x, y) each one's origin in the frame before lies
        beside it, and how far that is to be believed, float32[h, w] in 0..1. None for the first frame."""
        grey, before = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), self.before
        self.before = grey
        if before is None or min(grey.shape) < SMALLEST:
            return None
        back = self.engine.calc(grey, before, None)
        forth = self.engine.calc(before, grey, None)
        error = np.linalg.norm(back + warp(forth, back), axis=-1)
        trust: np.ndarray = np.exp(-np.square(error / DOUBT)) * _inside(back)
        return back, trust.astype(np.float32)


SMALLEST = 16  # pixels: DIS's patches need room


def warp(values: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """float32[h, w] or [h, w, c] of the frame before -> of this one; what comes from outside repeats the border."""
    height, width = flow.shape[:2]
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    moved: np.ndarray = cv2.remap(
        values, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    return moved.reshape(values.shape)


def _inside(flow: np.ndarray) -> np.ndarray:
    """Where the origin is within the frame."""
    height, width = flow.shape[:2]
    x, y = flow[..., 0] + np.arange(width), flow[..., 1] + np.arange(height)[:, None]
    return np.asarray((x > -1) & (y > -1) & (x < width) & (y < height))
