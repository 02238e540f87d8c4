"""Pictures for people: an image of the dataset, and the same with its labels over it, small and inside the page."""

import base64
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipelines.data import rle
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record
from pipelines.data.shards import ShardReader
from pipelines.validation.inspection import decode

SIDE = 256  # the longer side that is shown
UNDECLARED = (255, 0, 255)
OPACITY = 0.55  # of the labels
HATCH = (np.full(3, 96, np.uint8), np.full(3, 150, np.uint8))


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """Data URIs; `labelled` is None where the labels do not fit the image."""

    id: str
    width: int
    height: int
    plain: str
    labelled: str | None


class Gallery:
    """The dataset's images by row, in the order of `checks.Tables.images`."""

    def __init__(self, folder: Path):
        self.readers = [ShardReader(folder, split, verify=False) for split in SPLITS]  # the table pass has verified

    def __getitem__(self, row: int) -> Picture | None:
        """None where the image does not decode."""
        for reader in self.readers:
            if row < len(reader):
                return _picture(reader[row], reader.manifest.classes)
            row -= len(reader)
        raise IndexError(row)


def _picture(record: Record, classes: tuple[ClassInfo, ...]) -> Picture | None:
    image = decode(record)
    if image is None:
        return None
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    scale = int(scale) if scale >= 1 else scale  # small images grow by a whole number
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    shown = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    fits = (height, width) == (record.height, record.width)
    return Picture(
        id=record.id,
        width=size[0],
        height=size[1],
        plain=_uri(shown),
        labelled=_uri(_labelled(shown, record, classes)) if fits else None,
    )


def _labelled(image: np.ndarray, record: Record, classes: tuple[ClassInfo, ...]) -> np.ndarray:
    """Class colours over the image, segments outlined; what nobody knows is hatched, undeclared ids are magenta."""
    height, width = image.shape[:2]
    palette = np.full((256, 3), UNDECLARED, np.float32)
    palette[: len(classes)] = [c.color for c in classes]
    labels = cv2.resize(record.semantic, (width, height), interpolation=cv2.INTER_NEAREST)
    blended: np.ndarray = (image * (1 - OPACITY) + palette[labels] * OPACITY).round().astype(np.uint8)
    hatch = np.add.outer(np.arange(height), np.arange(width)) % 8 < 4
    blended[labels == IGNORE] = np.where(hatch[..., None], *HATCH)[labels == IGNORE]
    for segment in record.segments:
        if int(segment.counts.sum(dtype=np.int64)) != record.height * record.width:
            continue  # segments.runs tells of it
        mask = rle.decode(segment.counts, record.height, record.width).astype(np.uint8)
        mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(blended, outlines, -1, (255, 255, 255), 1)
    return blended


def _uri(image: np.ndarray) -> str:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 88))
    assert done  # noqa: S101 - any uint8 image can be encoded
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()
