"""The panoptic view of a record: stuff from the semantic map, things from the segments, the rest void."""

import numpy as np

from pipelines.data import rle
from pipelines.data.prediction import Panoptic
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
