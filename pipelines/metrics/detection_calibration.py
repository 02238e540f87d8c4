"""Whether the scores of instances are precisions: of the detections of some score, the share that is right.

The bins and errors of `calibration`, over detections in place of pixels (Kueppers et al. 2020, arXiv 2004.13546, by
score alone): right is what AP counts at IoU 0.5, of any size; what lies on a crowd counts nowhere.
"""

import numpy as np

from pipelines.metrics import matching
from pipelines.metrics.calibration import CalibrationCounts
from pipelines.metrics.instance import VIEWS, InstanceMetrics


def counts(metrics: InstanceMetrics) -> CalibrationCounts:
    """Over all classes."""
    found = CalibrationCounts()
    for each in metrics.by_class():
        bits = each.detections["settings"][:, VIEWS["segm"]]
        right, wrong = (matching.unpack(bits[:, k])[:, 0, 0] for k in range(2))
        judged = right | wrong
        # A product of probabilities may exceed 1 by a rounding.
        found.add(np.clip(each.detections["score"][judged], 0.0, 1.0), right[judged])
    return found
