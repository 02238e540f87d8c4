"""The panoptic view of a record: stuff from the semantic map, things from the segments, the rest void. And that of
COCO's panoptic PNG, of which each segment is painted in a colour of its own."""

from collections.abc import Sequence

import numpy as np

from pipelines.data import rle, runs
from pipelines.data.faults import FaultError
from pipelines.data.prediction import Panoptic, PanopticRuns
from pipelines.data.schema import IGNORE, Record


def truth(record: Record, things: tuple[int, ...]) -> Panoptic:
    """The record's panoptic truth. Thing pixels that no segment covers are void, as is what the semantic map ignores;
    where segments overlap, the earlier one is in front; one that nothing is left of is no segment."""
    stuff = [c for c in np.unique(record.semantic).tolist() if c != IGNORE and c not in things]
    labels = np.array([*stuff, *(s.category for s in record.segments)], np.int64)
    crowds = np.array([*(False for _ in stuff), *(s.iscrowd for s in record.segments)], bool)
    ids = np.zeros((record.height, record.width), np.int64)
    for number, category in enumerate(stuff, start=1):
        ids[record.semantic == category] = number
    for number, segment in reversed(list(enumerate(record.segments, start=len(stuff) + 1))):
        ids[rle.decode(segment.counts, record.height, record.width)] = number
    ids[record.semantic == IGNORE] = 0
    left = np.unique(ids[ids > 0])
    renumbered = np.zeros(len(labels) + 1, np.int32)
    renumbered[left] = np.arange(1, len(left) + 1)
    return Panoptic(ids=renumbered[ids], labels=labels[left - 1], iscrowd=crowds[left - 1])


def painted(pixels: np.ndarray, segments: Sequence[tuple[int, int, bool]]) -> PanopticRuns:
    """The pixels of a panoptic PNG, uint8[h, w, 3] in RGB; `segments` are its segments_info: (id, class id, is a
    crowd), where the id is R + 256 G + 256^2 B and 0 is void."""
    start, colors = runs.of_pixels(pixels)
    red, green, blue = colors.T.astype(np.int64)
    ids, strange = runs.look_up(red + (green << 8) + (blue << 16), [identity for identity, _, _ in segments])
    if strange:
        raise FaultError("instance-label", f"ids {strange[:10]} are painted, and not in segments_info")
    labels = np.array([category for _, category, _ in segments], np.int64)
    crowds = np.array([iscrowd for _, _, iscrowd in segments], bool)
    return PanopticRuns(shape=pixels.shape[:2], start=start, ids=ids, labels=labels, iscrowd=crowds)
