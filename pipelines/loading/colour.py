"""Colour jitter as one affine map of RGB, applied to bytes in one pass."""

from typing import Any

import albumentations as A
import cv2
import numpy as np

GREY = np.array([0.299, 0.587, 0.114])
YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
RGB = np.linalg.inv(YIQ)


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
        steps = [
            (np.eye(3) * brightness, 0.0),
            (np.eye(3) * contrast, 1 - contrast),
            (_saturate(saturation), 0.0),
            (_turn(hue), 0.0),
        ]
        matrix, shift = np.eye(3), np.zeros(3)
        mean = np.array(cv2.mean(img)[:3])
        for step in order:
            linear, towards_mean = steps[step]
            grey = GREY @ (matrix @ mean + shift)  # the mean of the image as it is at this step
            matrix, shift = linear @ matrix, linear @ shift + towards_mean * grey
        out: np.ndarray = cv2.transform(img, np.column_stack([matrix, shift]).astype(np.float32))
        return out


def _saturate(factor: float) -> np.ndarray:
    return factor * np.eye(3) + (1 - factor) * np.tile(GREY, (3, 1))


def _turn(hue: float) -> np.ndarray:
    """A turn by `hue` of the circle, from red towards green."""
    cos, sin = np.cos(2 * np.pi * hue), np.sin(2 * np.pi * hue)
    turned: np.ndarray = RGB @ np.array([[1, 0, 0], [0, cos, sin], [0, -sin, cos]]) @ YIQ
    return turned
