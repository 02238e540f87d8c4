"""One record, measured for validation: numbers and hashes in, no pixels kept.

A measurement that another fault makes impossible repeats the claimed value: one fault, one message.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipelines.data.schema import IGNORE, ClassInfo, Record, Segment
from pipelines.data.statistics import histogram
from pipelines.validation import leakage

Row = dict[str, Any]
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What tells whether two images are the same."""

    pixels: bytes  # a hash of the decoded picture; of the bytes where they do not decode
    labels: bytes | None  # a hash of the semantic map; None for one of a single value, which many images share
    fingerprint: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspection:
    """A record's rows in the tables (columns: `pipelines.validation.checks`), its pixel counts, and who it is."""

    image: Row
    segments: list[Row]
    counts: np.ndarray  # int64[256]: of each value of the semantic map
    identity: Identity


def inspect(record: Record, classes: tuple[ClassInfo, ...]) -> Inspection:
    picture = decode(record)
    labels = record.semantic.ravel(order="F")  # as the runs of a segment go
    counts = histogram(labels)
    covered = np.zeros(labels.size, np.uint16)
    segments = [_inspect_segment(s, record.height, labels, covered, classes) for s in record.segments]
    return Inspection(
        image=_describe(record, picture, counts, classes) | _cover(labels, covered, classes),
        segments=[{"id": record.id, "split": record.split, "segment": k, **row} for k, row in enumerate(segments)],
        counts=counts,
        identity=Identity(
            pixels=_hash(np.frombuffer(record.image, np.uint8) if picture is None else picture),
            labels=_hash(record.semantic) if np.count_nonzero(counts) > 1 else None,
            fingerprint=leakage.NOTHING if picture is None else leakage.fingerprint(picture),
        ),
    )


def decode(record: Record) -> np.ndarray | None:
    """uint8[h, w, 3] RGB, or None; the size is the picture's own, whatever the record says.

    cv2 is safe here, because the shard's hash says that these are the bytes that ingest decoded in full.
    """
    data = np.frombuffer(record.image, np.uint8)
    if record.format == "raw":
        shape = (record.height, record.width, 3)
        return data.reshape(shape) if data.size == np.prod(shape) else None
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if data.size else None


def _content_format(record: Record, picture: np.ndarray | None) -> str:
    """By the first bytes; decoded pixels have none of their own, so there it is whether they fill the picture."""
    if record.format == "raw" and picture is not None:
        return "raw"
    start = bytes(record.image[:8])
    return next((name for name, signature in SIGNATURES.items() if start.startswith(signature)), "unknown")


def _hash(array: np.ndarray) -> bytes:
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


def _describe(record: Record, picture: np.ndarray | None, counts: np.ndarray, classes: tuple[ClassInfo, ...]) -> Row:
    height, width = (record.height, record.width) if picture is None else picture.shape[:2]
    undeclared = [i for i in np.flatnonzero(counts).tolist() if len(classes) <= i != IGNORE]
    return {
        "id": record.id,
        "split": record.split,
        "format": record.format,
        "content_format": _content_format(record, picture),
        "height": record.height,
        "width": record.width,
        "decodes": picture is not None,
        "size": f"{record.width}x{record.height}",
        "decoded_size": f"{width}x{height}",
        "labelled": 1 - counts[IGNORE] / max(counts.sum(), 1),
        "classes": np.count_nonzero(counts[: len(classes)]),
        "undeclared": " ".join(map(str, undeclared)) or None,
        "instances": sum(not s.iscrowd for s in record.segments),
    }


def _cover(labels: np.ndarray, covered: np.ndarray, classes: tuple[ClassInfo, ...]) -> Row:
    """How the segments lie over the semantic map; `covered` counts them at each pixel."""
    isthing = np.zeros(256, np.uint8)
    isthing[: len(classes)] = [c.isthing for c in classes]
    pixels = max(labels.size, 1)
    return {
        "overlap": np.count_nonzero(covered > 1) / pixels,
        "uncovered": np.count_nonzero(cv2.LUT(labels, isthing).ravel() > covered) / pixels,
    }


def _inspect_segment(
    segment: Segment, height: int, labels: np.ndarray, covered: np.ndarray, classes: tuple[ClassInfo, ...]
) -> Row:
    """Its row; adds its mask to `covered`. The work grows with the segment's area, not with the image's."""
    declared = 0 <= segment.category < len(classes)
    runs = segment.counts.astype(np.int64)
    fills = int(runs.sum()) == labels.size
    area, box, agreement = segment.area, segment.bbox, 1.0
    if fills:
        ends = np.cumsum(runs)[1::2]
        starts = ends - runs[1::2]
        mask = _positions(starts, ends)
        covered[mask] += 1
        area, box = mask.size, extent(starts, ends, height)
        known = labels[mask][labels[mask] != IGNORE]
        agreement = float((known == segment.category).mean()) if known.size else 1.0
    return {
        "category": segment.category,
        "iscrowd": segment.iscrowd,
        "declared": declared,
        "isthing": classes[segment.category].isthing if declared else True,
        "fills": fills,
        "area": segment.area,
        "measured_area": area,
        "box": " ".join(map(str, segment.bbox)),
        "measured_box": " ".join(map(str, box)),
        "agreement": agreement,
    }


def _positions(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The flat positions inside the runs [start, end)."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    shift: np.ndarray = np.repeat(starts - before, lengths)
    return shift + np.arange(shift.size)


def extent(starts: np.ndarray, ends: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """The tight box x, y, width, height of column-major runs [start, end); zeros for none."""
    starts, lasts = starts[ends > starts], ends[ends > starts] - 1
    if not starts.size:
        return (0, 0, 0, 0)
    left, right = int(starts[0] // height), int(lasts[-1] // height)
    if (starts // height != lasts // height).any():  # a run past a column's end touches its last row and the first
        return (left, 0, right - left + 1, height)
    top, bottom = int((starts % height).min()), int((lasts % height).max())
    return (left, top, right - left + 1, bottom - top + 1)
