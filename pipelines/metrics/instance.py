"""Average precision and recall of instances, by mask and by box, as COCO defines them (Lin et al. 2014).

Boundary AP takes, of two masks, the lesser of their IoU and of that of their edges (Cheng et al. 2021, arXiv
2103.16562). Accuracy is what microscopy reports: TP / (TP + FP + FN) over all images, each IoU threshold on its own,
of the detections that are `confident`, however many.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.prediction import Instances
from pipelines.data.schema import Segment
from pipelines.metrics import iou, matching
from pipelines.metrics.ranked import DETECTION, RankedMetrics, mean, precisions
from pipelines.metrics.ratios import plain, ratio

VIEWS = {"segm": 0, "box": 1, "boundary": 2}
CONFIDENT = 0.5  # a detector's list has a tail that AP counts and nobody wants to see


class InstanceMetrics(RankedMetrics):
    """Of images, one by one.

    `boundary`: how wide an edge is, as a fraction of the image's diagonal (the paper: 0.02); 0 leaves edges out, which
    take most of the time. `confident`: the least score that accuracy counts.
    """

    def __init__(
        self, names: Sequence[str], *, things: Sequence[int], boundary: float = 0.0, confident: float = CONFIDENT
    ):
        super().__init__(names, things=things)
        self.boundary, self.confident = boundary, confident

    @property
    def options(self) -> tuple[Any, ...]:
        return *super().options, self.boundary, self.confident

    def update(self, truth: Sequence[Segment], size: tuple[int, int], predicted: Instances) -> None:
        """One image of (height, width)."""
        categories = np.array([s.category for s in truth], np.int64)
        self._check(categories, size, predicted)
        crowd = np.array([s.iscrowd for s in truth], bool)
        boxes = predicted.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        truth_boxes = np.array([s.bbox for s in truth], np.float64).reshape(-1, 4)
        counts = [s.counts for s in truth]
        overlap, area = iou.mask_iou(predicted.masks, counts, crowd)
        overlaps = [overlap, iou.box_iou(boxes, truth_boxes, crowd)]
        areas = [area, boxes[:, 2] * boxes[:, 3]]
        if self.boundary:
            overlaps.append(self._edges(overlap, predicted.masks, counts, crowd))
            areas.append(area)
        self._count(
            scores=predicted.scores,
            labels=predicted.labels,
            categories=categories,
            crowd=crowd,
            overlaps=np.stack(overlaps),
            areas=np.stack(areas),
            truth_areas=np.array([s.area for s in truth], np.int64),
        )

    def compute(self) -> dict[str, Any]:
        """COCO's twelve numbers and the AP of each class by mask, and under "box" and "boundary" the same by those;
        and the accuracies."""
        by_class = [each.detections for each in self.by_class()]
        families = {name: self._family(by_class, view) for name, view in VIEWS.items() if name in self.views}
        return {**families.pop("segm"), **families, **self._accuracy()}

    def precision_recall(self, iou: float = 0.5) -> dict[str, list[float] | None]:
        """By class, the masks' precision at recall 0, 0.01 .. 1; None for a class without truths."""
        threshold = int(np.abs(matching.THRESHOLDS - iou).argmin())
        if abs(matching.THRESHOLDS[threshold] - iou) > 1e-9:
            raise ValueError(f"IoU {iou} is not one of {matching.THRESHOLDS.round(2).tolist()}")
        precision = precisions([each.detections for each in self.by_class()], self._counts(), VIEWS["segm"])[
            :, 0, threshold
        ]
        return {self.names[c]: None if np.isnan(precision[c, 0]) else precision[c].tolist() for c in self.things}

    @property
    def views(self) -> tuple[str, ...]:
        """What AP is given by, of VIEWS."""
        return ("segm", "box", "boundary") if self.boundary else ("segm", "box")

    def _edges(
        self, overlap: np.ndarray, masks: np.ndarray, truth: Sequence[np.ndarray], crowd: np.ndarray
    ) -> np.ndarray:
        """The lesser of the two IoUs; a crowd has no edge of its own, and is met by its pixels."""
        distance = max(1, round(self.boundary * float(np.hypot(*masks.shape[1:]))))
        return np.where(crowd, overlap, np.minimum(overlap, iou.boundary_iou(masks, truth, crowd, distance)))

    def _accuracy(self) -> dict[str, Any]:
        """Over all things, at each of COCO's thresholds (accuracy50 .. accuracy95), and their mean."""
        detections = np.concatenate([np.zeros(0, DETECTION), *self._detections])
        bits = detections[detections["score"] >= self.confident]["settings"][:, VIEWS["segm"]]
        right, wrong = (matching.unpack(bits[:, k])[:, 0].sum(axis=0) for k in range(2))
        truths = self._counts()[:, 0].sum()
        found = ratio(right, wrong + truths)  # TP + FN are the truths
        if not truths:
            found[:] = np.nan
        percents = np.rint(100 * matching.THRESHOLDS).astype(int).tolist()
        named = {f"accuracy{percent}": plain(v) for percent, v in zip(percents, found, strict=True)}
        return {"accuracy": mean(found), **named}

    def _check(self, categories: np.ndarray, size: tuple[int, int], predicted: Instances) -> None:
        self._refuse_strange(categories, predicted.labels)
        if predicted.masks.shape[1:] != tuple(size):
            raise ValueError(f"masks of {predicted.masks.shape[1:]} for an image of {tuple(size)}")
        if not (np.isfinite(predicted.scores).all() and np.isfinite(predicted.boxes).all()):
            raise ValueError("scores and boxes must be finite")
