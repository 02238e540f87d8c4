"""Bytes from a stranger into pixels, in processes that bound what that may cost and survive what it may break.

These import this module, and so no more than it does: neither torch nor Ray.
"""

from contextlib import ExitStack
from functools import partial
from queue import SimpleQueue

import numpy as np

from pipelines.data import decode
from pipelines.data.faults import FaultError
from pipelines.data.ingest.parallel import LostError, Pool
from pipelines.serving.answers import Refusal

SECONDS = 20.0  # for one image
DO = "send the bytes of a PNG, JPEG, BMP, TIFF or WebP file as the body, or as the file of a form"


class Decoders:
    """Some of them. Each has one image at a time; whoever comes while all are busy waits. For threads."""

    def __init__(self, count: int, *, max_pixels: int):
        self.max_pixels = max_pixels
        self._held = ExitStack()
        self._free: SimpleQueue[Pool] = SimpleQueue()
        for _ in range(count):
            pool = Pool(partial(_decoded, max_pixels=max_pixels), workers=1, seconds=SECONDS)
            self._free.put(self._held.enter_context(pool))

    def close(self) -> None:
        self._held.close()

    def decode(self, data: bytes) -> np.ndarray:
        """uint8[h, w, 3] in RGB, upright; or a Refusal that says why not."""
        pool = self._free.get()
        try:
            [(_, found)] = pool.ordered([data])
        finally:
            self._free.put(pool)
        if isinstance(found, np.ndarray):
            return found
        if isinstance(found, FaultError):
            allowed = f"{', '.join(decode.IMAGE_FORMATS)} of at most {self.max_pixels:,} pixels"
            too_large = found.kind == "too-large"
            raise Refusal(
                413 if too_large else 400, found.reason, allowed=allowed, do="make it smaller" if too_large else DO
            )
        if isinstance(found, LostError | MemoryError):
            why = str(found) or "it takes more memory than it may"
            raise Refusal(400, f"an image that cannot be decoded: {why}", do="save it anew, as PNG or JPEG")
        raise found


def _decoded(data: bytes, max_pixels: int) -> np.ndarray:
    return decode.image(data, max_pixels=max_pixels).shown()
