"""The panoptic view of a record: stuff from the semantic map, things from the segments, the rest void."""

import numpy as np

from pipelines.data import rle
from pipelines.data.prediction import Panoptic
from pipelines.data.schema import IGNORE, Record


def truth(record: Record, things: tuple[int, ...]) -> Panoptic:
    """The record's panoptic truth. Thing pixels that no segment covers are void; where segments overlap, the
    earlier one is in front (COCO's panoptic truths do not overlap, so nothing is lost there)."""
    ids = np.zeros((record.height, record.width), np.int32)
    labels: list[int] = []
    crowds: list[bool] = []
    for category in np.unique(record.semantic).tolist():
        if category != IGNORE and category not in things:
            labels.append(category)
            crowds.append(False)
            ids[record.semantic == category] = len(labels)
    for segment in reversed(record.segments):
        mask = rle.decode(segment.counts, record.height, record.width)
        # A pixel that the semantic map ignores is void for every task.
        mask &= record.semantic != IGNORE
        labels.append(segment.category)
        crowds.append(segment.iscrowd)
        ids[mask] = len(labels)
    return Panoptic(ids=ids, labels=np.array(labels, np.int64), iscrowd=np.array(crowds, bool))
