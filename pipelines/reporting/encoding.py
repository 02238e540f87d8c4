"""Pixels as the bytes of a file."""

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.data.decode import PNG

JPEG = (cv2.IMWRITE_JPEG_QUALITY, 90)


def png(pixels: np.ndarray) -> bytes:
    """uint8 or uint16 [h, w], or uint8[h, w, 3] in RGB"""
    return _encoded(".png", pixels, PNG)


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8[h, w, 3] in RGB"""
    return _encoded(".jpg", pixels, JPEG)


def _encoded(suffix: str, pixels: np.ndarray, options: Sequence[int]) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels, options)
    if not done:
        raise ValueError(f"{pixels.dtype}{list(pixels.shape)} cannot be encoded as {suffix}")
    content: bytes = data.tobytes()
    return content
