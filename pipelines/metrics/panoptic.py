"""Panoptic quality (Kirillov et al. 2019, arXiv 1801.00868), by the rules of github.com/cocodataset/panopticapi.

A truth and a prediction of one class match where their IoU is above one half, void pixels not counted in the union.
Crowds are never matched nor missed. A prediction without a match is no error if more than half of it lies on void or
on the crowd of its class; of several crowds of a class in one image the last is meant, as in that tool. A segment
without pixels is none.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.prediction import Panoptic
from pipelines.metrics import runs

# An IoU in (1/2, 1] is a whole multiple of this float64 spacing, so IoUs are summed as integers, without rounding.
UNIT = 2**53


class PanopticMetrics:
    """`names` is the class table, `things` the classes in it that have instances; the others are stuff."""

    def __init__(self, names: Sequence[str], *, things: Sequence[int]):
        self.names, self.things = tuple(names), tuple(things)
        self._tp, self._fp, self._fn = (np.zeros(len(self.names), np.int64) for _ in range(3))
        self._iou = [0] * len(self.names)  # over the matches, in 1 / UNIT

    def update(self, truth: Panoptic, predicted: Panoptic) -> None:
        """One image."""
        self._check(truth, predicted)
        shared = _intersections(truth, predicted)
        truth_area, area = shared.sum(axis=1), shared.sum(axis=0)
        void = shared[0, 1:]
        shared, truth_area, area = shared[1:, 1:], truth_area[1:], area[1:]

        union = truth_area[:, None] + area - shared - void
        same = truth.labels[:, None] == predicted.labels
        t, p = np.nonzero(same & ~truth.iscrowd[:, None] & (2 * shared > union))
        for category, iou in zip(truth.labels[t].tolist(), (shared[t, p] / union[t, p]).tolist(), strict=True):
            self._iou[category] += int(iou * UNIT)

        missed = (truth_area > 0) & ~truth.iscrowd
        missed[t] = False
        excused = void + _on_crowd(truth, predicted, shared)
        wrong = (area > 0) & (2 * excused <= area)
        wrong[p] = False
        for count, labels in (
            (self._tp, truth.labels[t]),
            (self._fn, truth.labels[missed]),
            (self._fp, predicted.labels[wrong]),
        ):
            count += np.bincount(labels, minlength=count.size)

    def merge(self, other: "PanopticMetrics") -> None:
        if (self.names, self.things) != (other.names, other.things):
            raise ValueError(f"cannot merge metrics of {other.names} into {self.names}")
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn
        self._iou = [a + b for a, b in zip(self._iou, other._iou, strict=True)]

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ of each class (None if neither truth nor prediction has it) and their means over the rest."""
        weight = self._tp + self._fp / 2 + self._fn / 2
        per_class: dict[str, dict[str, float | None]] = {"pq": {}, "sq": {}, "rq": {}}
        for c, name in enumerate(self.names):
            tp, iou = int(self._tp[c]), self._iou[c] / UNIT
            seen = weight[c] > 0
            per_class["pq"][name] = float(iou / weight[c]) if seen else None
            per_class["sq"][name] = (iou / tp if tp else 0.0) if seen else None
            per_class["rq"][name] = float(tp / weight[c]) if seen else None
        things = [self.names[c] for c in self.things]
        groups = {"": self.names, "_things": things, "_stuff": [n for n in self.names if n not in things]}
        means = {
            f"{key}{suffix}": _mean([values[name] for name in group])
            for suffix, group in groups.items()
            for key, values in per_class.items()
        }
        return {**means, **{f"{key}_per_class": values for key, values in per_class.items()}}

    def _check(self, truth: Panoptic, predicted: Panoptic) -> None:
        if truth.ids.shape != predicted.ids.shape:
            raise ValueError(f"truth of {truth.ids.shape} with a prediction of {predicted.ids.shape}")
        labels = np.concatenate([truth.labels, predicted.labels])
        strange = np.unique(labels[(labels < 0) | (labels >= len(self.names))])
        if strange.size:
            raise ValueError(f"class ids {strange.tolist()} with {len(self.names)} classes")


def _intersections(truth: Panoptic, predicted: Panoptic) -> np.ndarray:
    """int64[truths + 1, predictions + 1]: pixels in common; row and column 0 are void."""
    shape = (len(truth.labels) + 1, len(predicted.labels) + 1)
    key = (truth.ids.astype(np.int64) * shape[1] + predicted.ids).reshape(-1)
    edges = np.concatenate([[0], runs.changes(key), [key.size]])
    if key.size == 0:
        return np.zeros(shape, np.int64)
    counts = np.bincount(key[edges[:-1]], np.diff(edges), minlength=shape[0] * shape[1])
    return counts.astype(np.int64).reshape(shape)


def _on_crowd(truth: Panoptic, predicted: Panoptic, shared: np.ndarray) -> np.ndarray:
    """int64[predictions]: pixels on the crowd of the same class."""
    on_crowd = np.zeros(len(predicted.labels), np.int64)
    for k in np.flatnonzero(truth.iscrowd):
        on_crowd = np.where(predicted.labels == truth.labels[k], shared[k], on_crowd)
    return on_crowd


def _mean(values: Sequence[float | None]) -> float | None:
    valid = [v for v in values if v is not None]
    return sum(valid) / len(valid) if valid else None
