"""Pixels as the bytes of a file, and as what a page holds of one."""

import base64
from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.data.decode import PNG

JPEG = (cv2.IMWRITE_JPEG_QUALITY, 90)
FLAT_COLORS = 256


def png(pixels: np.ndarray) -> bytes:
    """uint8 or uint16 [h, w], or uint8[h, w, 3] in RGB"""
    return _encoded(".png", pixels, PNG)


def jpeg(pixels: np.ndarray) -> bytes:
    """uint8[h, w, 3] in RGB"""
    return _encoded(".jpg", pixels, JPEG)


def data_uri(picture: np.ndarray, *, quality: int = 88) -> str:
    """WebP: a flat map stays exact and is small, a photograph is as good as the eye asks for."""
    colors = np.unique(picture.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1]))
    exact = 101  # above 100 is lossless
    options = [cv2.IMWRITE_WEBP_QUALITY, exact if colors.size <= FLAT_COLORS else quality]
    return f"data:image/webp;base64,{base64.b64encode(_encoded('.webp', picture, options)).decode()}"


def _encoded(suffix: str, pixels: np.ndarray, options: Sequence[int]) -> bytes:
    done, data = cv2.imencode(suffix, cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels, options)
    if not done:
        raise ValueError(f"{pixels.dtype}{list(pixels.shape)} cannot be encoded as {suffix}")
    content: bytes = data.tobytes()
    return content
