"""What an evaluation has to tell, and what its numbers are called on a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.data.schema import ClassInfo
from pipelines.inference.cost import Cost
from pipelines.metrics.calibration import Bin
from pipelines.metrics.pixel_failures import PixelFailures
from pipelines.metrics.segment_failures import SegmentFailures
from pipelines.reporting.cases import Case
from pipelines.reporting.failures import Failure

Curve = Sequence[float] | None  # precision at recall 0, 0.01 .. 1
Failures = SegmentFailures | PixelFailures

# view -> what a card shows: the headline, what it means, and its family
CARDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "panoptic": (
        "PQ",
        "Panoptic quality",
        "segments found, and how well they fit: every pixel belongs to one",
        {"sq": "SQ", "rq": "RQ", "pq_things": "PQ things", "pq_stuff": "PQ stuff"},
    ),
    "semantic": (
        "mIoU",
        "Semantic segmentation",
        "overlap of predicted and true pixels of a class, mean over classes",
        {
            "pixel_accuracy": "pixel accuracy",
            "mean_accuracy": "mean accuracy",
            "frequency_weighted_iou": "weighted IoU",
            "dice": "Dice",
            "boundary_f1": "boundary F1",
            "ece": "ECE",
        },
    ),
    "instance": (
        "AP",
        "Instance segmentation",
        "average precision of masks, mean over IoU 0.50 to 0.95 and classes",
        {
            "ap50": "AP50",
            "ap75": "AP75",
            "ap_small": "AP small",
            "ap_medium": "AP medium",
            "ap_large": "AP large",
            "ar100": "AR100",
            "accuracy": "accuracy",
            "ece": "ECE",
        },
    ),
}
# view -> the columns of the table of classes: title, key
PER_CLASS = {
    "panoptic": (("PQ", "pq_per_class"),),
    "semantic": (("IoU", "iou"), ("boundary F1", "boundary_f1_per_class")),
    "instance": (("AP", "ap_per_class"),),
}
# what a prediction costs: title, key in cost.json, unit
COSTS = (
    ("latency of one image, median", "latency_ms", "ms"),
    ("latency, 95th percentile", "latency_p95_ms", "ms"),
    ("images per second, in batches", "images_per_second", ""),
    ("peak memory", "memory_mb", "MB"),
    ("parameters", "parameters", ""),
    ("file of weights", "size_mb", "MB"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All that is reported."""

    title: str
    task: str
    classes: tuple[ClassInfo, ...]
    metrics: Mapping[str, Mapping[str, Any]]  # by view, as metrics.json has them
    identity: Mapping[str, str]  # what was evaluated on what: shown as it is
    split: str
    history: Mapping[str, Sequence[float | None]]  # the columns of history.csv
    confusion: np.ndarray | None  # int64[n, n]: pixels by true and predicted class
    calibration: Sequence[Bin]  # none, where the model gives no probabilities
    detection_calibration: Sequence[Bin]  # of the scores of instances
    precision_recall: Mapping[float, Mapping[str, Curve]]  # by IoU and class
    scores: Mapping[str, float | None]  # image id -> headline metric of that image
    cases: Sequence[Case]
    failures: Failures | None  # all of them
    failures_shown: Sequence[Failure]  # those that there are crops of
    cost: Cost | None
