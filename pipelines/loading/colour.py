"""Colour jitter as one affine map of RGB, applied to bytes in one pass."""

import math
from typing import Any

import albumentations as A
import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114])
YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
RGB = np.linalg.inv(YIQ)
SAME, TO_GREY = np.eye(3), np.tile(GREY, (3, 1))
# A turn in the plane of I and Q, in RGB: what stays, and what its cosine and its sine weigh.
STAYS, COSINE, SINE = (
    RGB @ np.array(turn) @ YIQ
    for turn in (
        [[1.0, 0, 0], [0, 0, 0], [0, 0, 0]],
        [[0.0, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.0, 0, 0], [0, 0, 1], [0, -1, 0]],
    )
)


class ColorMatrix(A.ColorJitter):
    """Albumentations' ColorJitter, its arguments and its draws, with two differences that no training can see: what a
    step would clip at 0 or 255 is clipped at the end alone, and hue turns in the plane of chrominance (YIQ), which
    keeps the luma, where ColorJitter turns in HSV, which keeps the largest channel."""

    def apply(
        self,
        img: np.ndarray,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        order: list[int],
        **params: Any,
    ) -> np.ndarray:
        """uint8[h, w, 3] -> uint8[h, w, 3]."""
        angle = 2 * np.pi * hue  # from red towards green
        steps = [
            (SAME * brightness, 0.0),
            (SAME * contrast, 1 - contrast),
            (SAME * saturation + TO_GREY * (1 - saturation), 0.0),
            (STAYS + COSINE * math.cos(angle) + SINE * math.sin(angle), 0.0),
        ]
        matrix, shift = SAME, np.zeros(3)
        mean = np.array(cv2.mean(img)[:3])
        for step in order:
            linear, towards_mean = steps[step]
            grey = GREY @ (matrix @ mean + shift)  # the mean of the image as it is at this step
            matrix, shift = linear @ matrix, linear @ shift + towards_mean * grey
        out: np.ndarray = cv2.transform(img, np.column_stack([matrix, shift]).astype(np.float32))
        return out
