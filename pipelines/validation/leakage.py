"""The same picture in two splits: exact copies by hash, lookalikes by the correlation of small thumbnails.

Lookalikes are found by normalised correlation of 16x16 grey thumbnails and not by a bit hash, because contrast must
not matter: between dark micrographs the difference hash of a picture saved again as JPEG is further away (55 of 256
bits) than that of another picture (15 bits). By correlation, distances 1 - r of pictures that were saved again,
scaled, blurred or brightened stay below 0.02 on photographs and with few exceptions on micrographs; different
micrographs are at 0.3 and more, the closest two of 8000 generated scenes at 0.09, and consecutive frames of a drive
at 0.0006: those are lookalikes indeed.

Every image is compared with all of the earlier splits, in blocks, 250 million pairs a second on one core: half a minute
for 160 000 training images and 20 000 of each other split, and 100 MB of thumbnails.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.data.schema import SPLITS

SIDE = 16
RESEMBLES = 0.98  # the correlation from which two pictures are lookalikes
FLAT = 1.0  # grey levels of deviation below which a thumbnail is noise
BLOCK = 2048  # rows compared at a time: 16 MiB of correlations
NOTHING = np.zeros(SIDE * SIDE, np.float16)  # the fingerprint that resembles none, itself included
NOTHING.flags.writeable = False


def fingerprint(image: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] RGB -> float16[256] of zero mean and unit length, or NOTHING for a flat picture."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA).ravel()
    small -= small.mean()
    if small.std() < FLAT:
        return NOTHING
    unit: np.ndarray = small / np.linalg.norm(small)
    return unit.astype(np.float16)


def copies(hashes: Sequence[bytes], splits: Sequence[str]) -> tuple[list[int | None], list[int | None]]:
    """For each image the first equal one of an earlier split, and the first equal one before it in its own split.

    Splits are ordered train, val, test, so that the copy that is named is the one to take away.
    """
    first: dict[bytes, dict[str, int]] = {}
    for i, (key, split) in enumerate(zip(hashes, splits, strict=True)):
        first.setdefault(key, {}).setdefault(split, i)
    across: list[int | None] = []
    within: list[int | None] = []
    for i, (key, split) in enumerate(zip(hashes, splits, strict=True)):
        seen = first[key]
        across.append(next((seen[s] for s in SPLITS[: SPLITS.index(split)] if s in seen), None))
        within.append(seen[split] if seen[split] != i else None)
    return across, within


def lookalikes(fingerprints: np.ndarray, splits: Sequence[str]) -> list[int | None]:
    """float16[n, 256] and n splits -> the lookalike of each image in an earlier split: the closest one, if any."""
    closest, correlation = np.full(len(splits), -1), np.full(len(splits), RESEMBLES, np.float32)
    rank = np.array([SPLITS.index(s) for s in splits])
    for k in range(1, len(SPLITS)):
        for mine in _blocks(np.flatnonzero(rank == k)):
            queries = fingerprints[mine].astype(np.float32)
            for theirs in _blocks(np.flatnonzero(rank < k)):
                similar = queries @ fingerprints[theirs].astype(np.float32).T
                best = similar.argmax(axis=1)
                value = similar[np.arange(len(mine)), best]
                better = value > correlation[mine]
                closest[mine[better]], correlation[mine[better]] = theirs[best[better]], value[better]
    return [None if k < 0 else int(k) for k in closest]


def _blocks(rows: np.ndarray) -> list[np.ndarray]:
    return [rows[i : i + BLOCK] for i in range(0, len(rows), BLOCK)]
