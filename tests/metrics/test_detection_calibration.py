"""Scores of instances as precisions, against counting the matches one by one."""

import numpy as np
import pytest

from pipelines.data import rle
from pipelines.data.prediction import Instances
from pipelines.data.schema import Segment
from pipelines.metrics import detection_calibration
from pipelines.metrics.instance import InstanceMetrics


def mask(left: int, width: int) -> np.ndarray:
    found = np.zeros((8, 40), bool)
    found[:, left : left + width] = True
    return found


def test_right_is_what_ap_counts_at_one_half():
    """Of four detections one is right, one overlaps too little, one comes second, and one lies on a crowd."""
    masks = np.array([mask(0, 8), mask(12, 2), mask(0, 7), mask(30, 4)])
    boxes = np.array([rle.bbox(m) for m in masks], np.float32)
    boxes[:, 2:] += boxes[:, :2]
    truths = [(mask(0, 8), False), (mask(10, 8), False), (mask(28, 12), True)]
    truth = [
        Segment(category=0, bbox=rle.bbox(m), area=int(m.sum()), iscrowd=crowd, counts=rle.encode(m))
        for m, crowd in truths
    ]
    metrics = InstanceMetrics(["car"], things=[0])
    scores = np.array([0.95, 0.75, 0.74, 0.3], np.float32)
    metrics.update(truth, (8, 40), Instances(masks=masks, labels=np.zeros(4, np.int64), scores=scores, boxes=boxes))
    found = detection_calibration.counts(metrics)
    low, high = found.bins()
    assert (low.accuracy, low.share, high.accuracy, high.share) == (0.0, 2 / 3, 1.0, 1 / 3)
    assert [low.confidence, high.confidence] == pytest.approx([0.745, 0.95], abs=1e-6)
    assert found.compute() == pytest.approx({"ece": 2 / 3 * 0.745 + 1 / 3 * 0.05, "mce": 0.745}, abs=1e-6)


def test_no_detection_has_no_error():
    assert detection_calibration.counts(InstanceMetrics(["car"], things=[0])).compute() == {"ece": None, "mce": None}
