"""Average precision and recall of instances, by mask and by box, as COCO defines them (Lin et al. 2014).

The numbers are those of pycocotools' COCOeval, whose protocol is followed to the letter: 10 IoU thresholds, 101
recall points, at most 100 detections per image and class, four area ranges, crowds, and score ties in the order of
images. A class without truths has no value and is left out of every mean; its detections cost nothing.

Boundary AP takes, of two masks, the lesser of their IoU and of that of their edges (Cheng et al. 2021, arXiv
2103.16562). Accuracy is what microscopy reports: TP / (TP + FP + FN) over all images, each IoU threshold on its own,
of the detections that are `confident`, however many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.data.prediction import Instances
from pipelines.data.schema import Segment
from pipelines.metrics import iou, matching
from pipelines.metrics.ratios import plain, ratio

RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)  # detections per image and class
VIEWS = {"segm": 0, "box": 1, "boundary": 2}
# What is kept of a detection; `settings` are those where it is right, and those where it is wrong, in each view.
DETECTION = np.dtype([("score", "f8"), ("label", "i4"), ("rank", "u4"), ("settings", "u8", (len(VIEWS), 2))])
TRUTH = np.dtype([("label", "i4"), ("inside", "?", len(matching.RANGES))])  # of one that counts: its area ranges
CONFIDENT = 0.5  # a detector's list has a tail that AP counts and nobody wants to see


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One class."""

    detections: np.ndarray  # DETECTION[n] in falling order of score; ties in the order of images
    image: np.ndarray  # int64[n]: which one each is from
    truths: np.ndarray  # int64[images]: of any size


class InstanceMetrics:
    """`names` is the class table, `things` the classes in it that have instances. Nothing dense is kept.

    `boundary`: how wide an edge is, as a fraction of the image's diagonal (the paper: 0.02); 0 leaves edges out, which
    take most of the time. `confident`: the least score that accuracy counts.
    """

    def __init__(
        self, names: Sequence[str], *, things: Sequence[int], boundary: float = 0.0, confident: float = CONFIDENT
    ):
        self.names, self.things = tuple(names), tuple(things)
        self.boundary, self.confident = boundary, confident
        self._truths: list[np.ndarray] = []  # one per image
        self._detections: list[np.ndarray] = []  # likewise

    def update(self, truth: Sequence[Segment], size: tuple[int, int], predicted: Instances) -> None:
        """One image of (height, width)."""
        categories = np.array([s.category for s in truth], np.int64)
        self._check(categories, size, predicted)
        crowd = np.array([s.iscrowd for s in truth], bool)
        truth_areas = np.array([s.area for s in truth], np.int64)
        order, rank = _ranked(predicted.labels, predicted.scores)
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
        detections = np.zeros(order.size, DETECTION)
        detections["score"], detections["label"] = predicted.scores[order], predicted.labels[order]
        detections["rank"] = rank
        detections["settings"][:, : len(areas)] = matching.match(
            np.stack(overlaps)[:, order],
            predicted.labels[order, None] == categories,
            areas=np.stack(areas)[:, order],
            truth_areas=truth_areas,
            crowd=crowd,
        ).swapaxes(0, 1)
        self._detections.append(detections)
        truths = np.zeros(np.count_nonzero(~crowd), TRUTH)
        truths["label"], truths["inside"] = categories[~crowd], matching.inside(truth_areas[~crowd])
        self._truths.append(truths)

    def merge(self, other: "InstanceMetrics") -> None:
        """Add what `other` saw, as if its images had come after these."""
        mine, theirs = ((m.names, m.things, m.boundary, m.confident) for m in (self, other))
        if mine != theirs:
            raise ValueError(f"cannot merge metrics of {theirs} into {mine}")
        self._truths += other._truths
        self._detections += other._detections

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
        precision = _precision([each.detections for each in self.by_class()], self._counts(), VIEWS["segm"])[
            :, 0, threshold
        ]
        return {self.names[c]: None if np.isnan(precision[c, 0]) else precision[c].tolist() for c in self.things}

    @property
    def images(self) -> int:
        return len(self._detections)

    def rows(self) -> dict[str, np.ndarray]:
        """All that AP is made of: the images' rows one behind the other, and how many each image has."""
        return {
            "detections": _laid_out(self._detections, DETECTION)[0],
            "detections_in": np.array([len(rows) for rows in self._detections], np.int64),
            "truths": _laid_out(self._truths, TRUTH)[0],
            "truths_in": np.array([len(rows) for rows in self._truths], np.int64),
        }

    @classmethod
    def of_rows(
        cls, names: Sequence[str], *, things: Sequence[int], rows: Mapping[str, np.ndarray]
    ) -> "InstanceMetrics":
        """From `rows`, for AP by mask and by box; ValueError where they are of other classes, or damaged."""
        metrics = cls(names, things=things)
        metrics._detections = _by_image(rows["detections"], rows["detections_in"], DETECTION)
        metrics._truths = _by_image(rows["truths"], rows["truths_in"], TRUTH)
        if len(metrics._detections) != len(metrics._truths):
            raise ValueError(f"detections of {len(metrics._detections)} images, truths of {len(metrics._truths)}")
        strange = {*rows["detections"]["label"].tolist(), *rows["truths"]["label"].tolist()} - set(things)
        if strange:
            raise ValueError(f"classes {sorted(strange)} are not among the things {list(things)}")
        return metrics

    def by_class(self) -> list[Ranked]:
        """Of each class what AP is made of."""
        detections, image = _laid_out(self._detections, DETECTION)
        truths, truth_image = _laid_out(self._truths, TRUTH)
        order = np.lexsort((-detections["score"], detections["label"]))
        order = order[detections["rank"][order] < LIMITS[-1]]
        truth_order = np.argsort(truths["label"], kind="stable")
        rows = zip(
            _split(order, detections["label"], len(self.names)),
            _split(truth_order, truths["label"], len(self.names)),
            strict=True,
        )
        return [
            Ranked(
                detections=detections[each],
                image=image[each],
                truths=np.bincount(truth_image[there], minlength=self.images),
            )
            for each, there in rows
        ]

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
        return {"accuracy": _mean(found), **named}

    def _check(self, categories: np.ndarray, size: tuple[int, int], predicted: Instances) -> None:
        strange = sorted({*categories.tolist(), *predicted.labels.tolist()} - set(self.things))
        if strange:
            raise ValueError(f"classes {strange} are not among the things {list(self.things)}")
        if predicted.masks.shape[1:] != tuple(size):
            raise ValueError(f"masks of {predicted.masks.shape[1:]} for an image of {tuple(size)}")
        if not (np.isfinite(predicted.scores).all() and np.isfinite(predicted.boxes).all()):
            raise ValueError("scores and boxes must be finite")

    def _counts(self) -> np.ndarray:
        """int64[classes, ranges]: the truths that count."""
        truths, _ = _laid_out(self._truths, TRUTH)
        counts = np.zeros((len(self.names), len(matching.RANGES)), np.int64)
        np.add.at(counts, truths["label"], truths["inside"])
        return counts

    def _family(self, by_class: Sequence[np.ndarray], view: int) -> dict[str, Any]:
        counts = self._counts()
        precision, recall = (f(by_class, counts, view) for f in (_precision, _recall))
        sizes = list(enumerate(matching.RANGES))[1:]
        return {
            "ap": _mean(precision[:, 0]),
            "ap50": _mean(precision[:, 0, 0]),
            "ap75": _mean(precision[:, 0, 5]),
            **{f"ap_{name}": _mean(precision[:, r]) for r, name in sizes},
            **{f"ar{limit}": _mean(recall[:, 0, :, k]) for k, limit in enumerate(LIMITS)},
            **{f"ar_{name}": _mean(recall[:, r, :, -1]) for r, name in sizes},
            "ap_per_class": {self.names[c]: _mean(precision[c, 0]) for c in self.things},
        }


def _precision(by_class: Sequence[np.ndarray], truths: np.ndarray, view: int) -> np.ndarray:
    """float64[classes, ranges, thresholds, recall points], NaN where there is no truth."""
    precision = np.full((*truths.shape, len(matching.THRESHOLDS), len(RECALLS)), np.nan)
    for c, detections in enumerate(by_class):
        right, wrong = (matching.unpack(detections["settings"][:, view, k]) for k in range(2))
        wrong = wrong.cumsum(axis=0)
        for r, t in np.argwhere(np.repeat(truths[c, :, None] > 0, precision.shape[2], axis=1)).tolist():
            hits = np.flatnonzero(right[:, r, t])
            precision[c, r, t] = _interpolate(wrong[hits, r, t], int(truths[c, r]))
    return precision


def _recall(by_class: Sequence[np.ndarray], truths: np.ndarray, view: int) -> np.ndarray:
    """float64[classes, ranges, thresholds, limits], NaN where there is no truth."""
    recall = np.full((*truths.shape, len(matching.THRESHOLDS), len(LIMITS)), np.nan)
    for c, detections in enumerate(by_class):
        right = matching.unpack(detections["settings"][:, view, 0])
        for k, limit in enumerate(LIMITS):
            found = right[detections["rank"] < limit].sum(axis=0)
            np.divide(found, truths[c, :, None], out=recall[c, :, :, k], where=truths[c, :, None] > 0)
    return recall


def _laid_out(images: Sequence[np.ndarray], dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """All rows of all images, and the image of each."""
    sizes = [len(rows) for rows in images]
    return np.concatenate([np.zeros(0, dtype), *images]), np.repeat(np.arange(len(images)), sizes)


def _by_image(rows: np.ndarray, sizes: np.ndarray, dtype: np.dtype[Any]) -> list[np.ndarray]:
    if rows.dtype != dtype or (sizes < 0).any() or sizes.sum() != len(rows):
        raise ValueError(f"{len(rows)} rows of {rows.dtype} for {sizes.sum()} of {dtype}")
    return np.split(rows, np.cumsum(sizes)[:-1]) if sizes.size else []


def _split(order: np.ndarray, labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Rows in the order of their labels, by class."""
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def _ranked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by class and falling score, and each detection's rank in its class; ties stay in order."""
    order = np.lexsort((-scores, labels))
    return order, np.arange(order.size) - np.searchsorted(labels[order], labels[order])


def _interpolate(wrong: np.ndarray, truths: int) -> np.ndarray:
    """The best precision at each recall or beyond it; wrong[i] is how many failed before hit i.

    Precision rises at hits alone, so that no other detection has to be looked at. The spacing keeps COCO's rounding.
    """
    hits = np.arange(1.0, wrong.size + 1)
    best = np.maximum.accumulate((hits / (wrong + hits + np.spacing(1)))[::-1])[::-1]
    needed = np.searchsorted(np.arange(truths + 1) / truths, RECALLS)
    # Recall 0 is reached before the first hit, and the best beyond that is the first hit's best.
    at = np.maximum(needed, 1) - 1
    return np.where(at < best.size, np.append(best, 0.0)[np.minimum(at, best.size)], 0.0)


def _mean(values: np.ndarray) -> float | None:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else None
