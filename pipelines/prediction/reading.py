"""What the bounded child of a worker does: read and decode what comes from outside."""

from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import cv2
import numpy as np

from pipelines.data import decode
from pipelines.data.faults import FaultError
from pipelines.data.tree import MAX_BYTES, Files, is_uri
from pipelines.prediction.sources import Source

MAX_VIDEO_BYTES = 1 << 36
HEAD = 16  # bytes that say what a file is
# How the containers that may be opened begin: FFmpeg would follow what a playlist names, to other files and hosts.
CONTAINERS: dict[str, tuple[int, bytes]] = {
    "MP4 or MOV": (4, b"ftyp"),
    "old MOV": (4, b"moov"),
    "MOV, data first": (4, b"mdat"),
    "MOV, free first": (4, b"wide"),
    "Matroska or WebM": (0, b"\x1a\x45\xdf\xa3"),
    "AVI": (8, b"AVI "),
    "MPEG program": (0, b"\0\0\1\xba"),
    "MPEG video": (0, b"\0\0\1\xb3"),
    "Ogg": (0, b"OggS"),
}


def image(source: Source, max_pixels: int) -> np.ndarray:
    """uint8[h, w, 3] in RGB, upright."""
    data = Files(source.root).read(source.name, MAX_BYTES)
    return decode.image(data, suffix=PurePosixPath(source.name).suffix, max_pixels=max_pixels).shown()


def frames(first: int, *, path: str, count: int, step: int, max_pixels: int) -> list[np.ndarray]:
    """So many frames of the video from one on, RGB; fewer where it ends. One call after the other is read without
    beginning anew: not every format finds a frame by its number."""
    video, found = _opened(path, max_pixels), []
    for number in range(first, first + count * step, step):
        if (frame := video.at(number)) is None:
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
        self.capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
        if not self.capture.isOpened():
            raise FaultError("corrupt", "corrupt video: it cannot be opened, or its codec is not known")
        width, height = (int(self.capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if width * height > max_pixels:
            raise FaultError("too-large", f"pixels {width}x{height} = {width * height} over limit {max_pixels}")

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
    with open(path, "rb") as file:  # noqa: PTH123 - a path as it came
        head = file.read(HEAD)
    if not any(head[at : at + len(magic)] == magic for at, magic in CONTAINERS.values()):
        raise FaultError("not-an-image", f"not an allowed video (allowed: {', '.join(CONTAINERS)})")
    return _Video(path, max_pixels)
