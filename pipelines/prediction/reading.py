"""What the bounded child of a worker does: read and decode what comes from outside."""

from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np

from pipelines.data import decode, video
from pipelines.data.faults import FaultError
from pipelines.data.tree import MAX_BYTES, Files, is_uri
from pipelines.prediction.sources import Source

MAX_VIDEO_BYTES = 1 << 36


def image(source: Source, max_pixels: int) -> np.ndarray:
    """uint8[h, w, 3] in RGB, upright."""
    data = Files(source.root).read(source.name, MAX_BYTES)
    return decode.image(data, suffix=PurePosixPath(source.name).suffix, max_pixels=max_pixels).shown()


def frames(first: int, *, path: str, count: int, step: int, max_pixels: int) -> list[np.ndarray]:
    """So many frames of the video from one on, RGB; fewer where it ends. One call after the other is read without
    beginning anew: not every format finds a frame by its number."""
    opened, found = _opened(path, max_pixels), []
    for number in range(first, first + count * step, step):
        if (frame := opened.at(number)) is None:
            break
        found.append(frame)
    return found


def length(path: str) -> int:
    """How many frames the video says it has: not always so many."""
    return max(0, int(_opened(path, decode.MAX_PIXELS).capture.get(cv2.CAP_PROP_FRAME_COUNT)))


class _Video:
    """Read forwards."""

    def __init__(self, path: str, max_pixels: int):
        self.path, self.max_pixels, self.next = path, max_pixels, 0
        self.capture = video.opened(path, max_pixels)

    def at(self, number: int) -> np.ndarray | None:
        """A frame at or behind the last one."""
        while self.next < number:
            if not self.capture.grab():
                return None
            self.next += 1
        done, frame = self.capture.read()
        if not done:
            return None
        self.next += 1
        if frame.shape[0] * frame.shape[1] > self.max_pixels:
            raise FaultError("too-large", f"frame {number} has {frame.shape[1]}x{frame.shape[0]} pixels")
        rgb: Any = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
        return np.ascontiguousarray(rgb)


@lru_cache(maxsize=1)
def _opened(path: str, max_pixels: int) -> _Video:
    if is_uri(path):
        raise ValueError(f"{path} is to be fetched first")
    return _Video(path, max_pixels)
