"""Panoptic quality (Kirillov et al. 2019, arXiv 1801.00868), by the rules of github.com/cocodataset/panopticapi.

A truth and a prediction of one class match where their IoU is above one half, void pixels not counted in the union.
Crowds are never matched nor missed. A prediction without a match is no error if more than half of it lies on void or
on the crowd of its class; of several crowds of a class in one image the last is meant, as in that tool. A segment
without pixels is none.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.prediction import Panoptic, PanopticRuns
from pipelines.metrics.ratios import mean, plain, ratio

# An IoU in (1/2, 1] is a whole multiple of this float64 spacing, so IoUs are summed as integers, without rounding.
UNIT = 2**53
# Pairs up to which all are counted in a table; beyond, which thousands of nuclei reach, those that meet are sorted.
TABLE = 1 << 16


class PanopticMetrics:
    """`names` is the class table, `things` the classes in it that have instances; the others are stuff."""

    def __init__(self, names: Sequence[str], *, things: Sequence[int]):
        self.names, self.things = tuple(names), tuple(things)
        self._tp, self._fp, self._fn = (np.zeros(len(self.names), np.int64) for _ in range(3))
        self._iou = [0] * len(self.names)  # over the matches, in 1 / UNIT

    def update(self, truth: Panoptic | PanopticRuns, predicted: Panoptic | PanopticRuns) -> None:
        """One image."""
        truth, predicted = (one.runs() if isinstance(one, Panoptic) else one for one in (truth, predicted))
        self._check(truth, predicted)
        t, p, shared = pairs(truth, predicted)
        # Row 0 is void, of a class that nothing else has: -1 in the truth, -2 in the prediction.
        labels, found = np.append(-1, truth.labels), np.append(-2, predicted.labels)
        crowd = np.append(False, truth.iscrowd)
        truth_area, area = sums(t, shared, labels.size), sums(p, shared, found.size)
        void = sums(p[t == 0], shared[t == 0], found.size)

        category = labels[t]
        same = category == found[p]
        union = truth_area[t] + area[p] - shared - void[p]
        match = same & ~crowd[t] & (2 * shared > union)
        excuse = same & (last_crowd(labels, crowd & (truth_area > 0), len(self.names))[category] == t)
        excused = void + sums(p[excuse], shared[excuse], found.size)

        missed, wrong = (truth_area > 0) & ~crowd, (area > 0) & (2 * excused <= area)
        missed[t[match]] = wrong[p[match]] = False
        missed[0] = wrong[0] = False  # void
        for count, of in ((self._tp, category[match]), (self._fn, labels[missed]), (self._fp, found[wrong])):
            count += np.bincount(of, minlength=count.size)
        ious = (shared[match] / union[match]).tolist()
        for c, iou in zip(category[match].tolist(), ious, strict=True):
            self._iou[c] += int(iou * UNIT)

    def merge(self, other: "PanopticMetrics") -> None:
        if (self.names, self.things) != (other.names, other.things):
            raise ValueError(f"cannot merge metrics of {other.names} into {self.names}")
        self._tp += other._tp
        self._fp += other._fp
        self._fn += other._fn
        self._iou = [a + b for a, b in zip(self._iou, other._iou, strict=True)]

    @property
    def totals(self) -> np.ndarray:
        """float64[n, 4]: each class's matches, inventions, misses, and the sum of the matches' IoU."""
        iou = [iou / UNIT for iou in self._iou]
        return np.stack([self._tp, self._fp, self._fn, iou], axis=-1)

    def compute(self) -> dict[str, Any]:
        """PQ, SQ and RQ of each class (None if neither truth nor prediction has it) and their means over the rest."""
        found = scores(self.totals, self.things)
        return {name: self._by_name(values) if values.ndim else plain(values) for name, values in found.items()}

    def _by_name(self, values: np.ndarray) -> dict[str, float | None]:
        return {n: plain(v) for n, v in zip(self.names, values, strict=True)}

    def _check(self, truth: PanopticRuns, predicted: PanopticRuns) -> None:
        if truth.shape != predicted.shape:
            raise ValueError(f"truth of {truth.shape} with a prediction of {predicted.shape}")
        labels = np.concatenate([truth.labels, predicted.labels])
        strange = np.unique(labels[(labels < 0) | (labels >= len(self.names))])
        if strange.size:
            raise ValueError(f"class ids {strange.tolist()} with {len(self.names)} classes")


def scores(totals: np.ndarray, things: Sequence[int]) -> dict[str, np.ndarray]:
    """[..., n, 4] as `PanopticMetrics.totals` -> each score as float64[...], by class [..., n]; NaN is undefined."""
    tp, fp, fn, iou = np.moveaxis(totals, -1, 0)
    weight = tp + fp / 2 + fn / 2
    matched = np.where((tp == 0) & (weight > 0), 0.0, ratio(iou, tp))  # seen and never matched is 0, not undefined
    per_class = {"pq": ratio(iou, weight), "sq": matched, "rq": ratio(tp, weight)}
    all_classes = range(totals.shape[-2])
    groups = {"": list(all_classes), "_things": list(things), "_stuff": [c for c in all_classes if c not in things]}
    means = {
        f"{key}{suffix}": mean(values[..., group])
        for suffix, group in groups.items()
        for key, values in per_class.items()
    }
    return {**means, **{f"{key}_per_class": values for key, values in per_class.items()}}


def pairs(truth: PanopticRuns, predicted: PanopticRuns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(truth id, predicted id, pixels in common) of all pairs that meet, in order."""
    edges = np.concatenate([truth.start, predicted.start])
    order = np.argsort(edges, kind="stable")  # two rows that are in order each: this kind is the fastest to merge them
    of_truth = np.cumsum(order < truth.start.size)
    # Where both begin a run, the first of the two pieces is empty.
    length = np.diff(edges[order], append=math.prod(truth.shape))
    full = length > 0
    t, p = truth.ids[of_truth[full] - 1], predicted.ids[np.flatnonzero(full) - of_truth[full]]
    key, rows = t.astype(np.int64) * (len(predicted.labels) + 1) + p, (len(truth.labels) + 1, len(predicted.labels) + 1)
    if math.prod(rows) <= TABLE:
        shared = sums(key, length[full], math.prod(rows))
        met = np.flatnonzero(shared)
        shared = shared[met]
    else:
        met, which = np.unique(key, return_inverse=True)
        shared = sums(which, length[full], met.size)
    return *np.divmod(met, rows[1]), shared


def sums(ids: np.ndarray, pixels: np.ndarray, count: int) -> np.ndarray:
    """Pixels by id; bincount adds them as float64, which is exact for whole numbers."""
    return np.bincount(ids, pixels, minlength=count).astype(np.int64)


def last_crowd(labels: np.ndarray, crowd: np.ndarray, classes: int) -> np.ndarray:
    """int64[classes + 1]: the id of each class's last crowd, or -1; the last row is void's, which has none."""
    last = np.full(classes + 1, -1)
    ids = np.flatnonzero(crowd)
    last[labels[ids]] = ids
    return last
