"""What went wrong with segments, each of them: the error types of TIDE (Bolya et al. 2020, arXiv 2008.08115).

Predictions are matched as AP at IoU 0.5 matches them: by falling score each takes the free truth of its class that it
overlaps most. One without a match is, the first that holds:

    badly_localised   its best truth of its class is overlapped by 0.1 to 0.5 (the paper's "Loc")
    wrong_class       a truth of another class is overlapped by 0.5 or more ("Cls")
    duplicate         a truth of its class is overlapped by 0.5 or more, and was taken ("Dupe")
    false_positive    no truth is overlapped by more than 0.1 ("Bkg")
    both              anything else: of another class, and badly localised ("Both")

A truth without a match is `missed`, unless a `badly_localised` or a `wrong_class` stands for it. What lies on a crowd,
or on what nobody knows, is not judged. Of panoptic segments matches are PQ's (above 0.5, void apart), so that all
failures but `missed` together are PQ's false positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data.prediction import Instances, Panoptic
from pipelines.data.schema import Segment
from pipelines.metrics import iou, panoptic, sizes

KINDS = ("missed", "false_positive", "duplicate", "wrong_class", "badly_localised", "both")
MISSED, FALSE_POSITIVE, DUPLICATE, WRONG_CLASS, BADLY_LOCALISED, BOTH = range(len(KINDS))
MATCH, NEAR = 0.5, 0.1
# One failure; rows and labels are -1 where there is no truth, or no prediction. The area is the truth's, if it has one.
FAILURE = np.dtype(
    [
        ("kind", "u1"),
        ("truth", "i4"),
        ("predicted", "i4"),
        ("truth_label", "i4"),
        ("label", "i4"),
        ("score", "f4"),
        ("iou", "f4"),
        ("area", "i8"),
    ]
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlaps:
    """The segments of one image, predictions by falling score."""

    iou: np.ndarray  # float[d, g]
    labels: np.ndarray  # int[d]
    scores: np.ndarray  # float[d]
    areas: np.ndarray  # int[d]
    rows: np.ndarray  # int[d]: where each stands in the prediction
    truth_labels: np.ndarray  # int[g]
    truth_areas: np.ndarray  # int[g]
    truth_rows: np.ndarray  # int[g]: where each stands in the truth
    crowd: np.ndarray  # bool[g]
    excused: np.ndarray  # bool[d]: is not judged, unless it matches


class SegmentFailures:
    """`names` is the class table. Every failure is kept, and counts by class and size."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._failures: list[np.ndarray] = []  # one per image
        # By class and size: truths, those that were found, judged predictions, those that are right.
        self.by_size = np.zeros((len(self.names), len(sizes.NAMES), 4), np.int64)

    def update(self, overlaps: Overlaps) -> None:
        """One image."""
        match = matches(overlaps)
        self._failures.append(failures(overlaps, match))
        counted, right = ~overlaps.crowd, match >= 0
        found = np.zeros(counted.size, bool)
        found[match[right]] = True
        judged = right | ~overlaps.excused
        truth, predicted = sizes.of(overlaps.truth_areas), sizes.of(overlaps.areas)
        for k, at in enumerate((counted, found)):
            np.add.at(self.by_size, (overlaps.truth_labels[at], truth[at], k), 1)
        for k, at in enumerate((judged, right), start=2):
            np.add.at(self.by_size, (overlaps.labels[at], predicted[at], k), 1)

    def merge(self, other: "SegmentFailures") -> None:
        if self.names != other.names:
            raise ValueError(f"cannot merge failures of {other.names} into {self.names}")
        self._failures += other._failures
        self.by_size += other.by_size

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """FAILURE[n] of all images, and the image of each."""
        sizes_of = [len(rows) for rows in self._failures]
        return np.concatenate([np.zeros(0, FAILURE), *self._failures]), np.repeat(np.arange(len(sizes_of)), sizes_of)

    def compute(self) -> dict[str, int]:
        """How many there are of each kind."""
        counts = np.bincount(self.rows()[0]["kind"], minlength=len(KINDS))
        return dict(zip(KINDS, counts.tolist(), strict=True))


def of_instances(truth: Sequence[Segment], predicted: Instances, *, confident: float) -> Overlaps:
    """Of the predictions with at least that score: the others are a tail that AP counts and nobody acts on."""
    order = np.argsort(-predicted.scores, kind="stable")
    rows = order[predicted.scores[order] >= confident]
    crowd, truth_labels = (np.array([f(s) for s in truth], t) for f, t in ((_iscrowd, bool), (_category, np.int64)))
    overlap, areas = iou.mask_iou(predicted.masks[rows], [s.counts for s in truth], crowd)
    labels = predicted.labels[rows]
    return Overlaps(
        iou=overlap,
        labels=labels,
        scores=predicted.scores[rows],
        areas=areas,
        rows=rows,
        truth_labels=truth_labels,
        truth_areas=np.array([s.area for s in truth], np.int64),
        truth_rows=np.arange(len(truth)),
        crowd=crowd,
        excused=((overlap >= MATCH) & crowd & (labels[:, None] == truth_labels)).any(axis=1),
    )


def of_panoptic(truth: Panoptic, predicted: Panoptic) -> Overlaps:
    """As PQ overlaps them."""
    t, p, shared = panoptic.pairs(truth.runs(), predicted.runs())
    n, d = len(truth.labels) + 1, len(predicted.labels) + 1
    table = np.zeros((d, n), np.int64)
    table[p, t] = shared
    areas, truth_areas = table.sum(axis=1), table.sum(axis=0)
    union = truth_areas + (areas - table[:, 0])[:, None] - table
    overlap = table / np.maximum(union, 1)
    overlap[overlap == MATCH] = np.nextafter(MATCH, 0)  # PQ matches above one half, not at it
    classes = 1 + int(max(labels.max(initial=0) for labels in (truth.labels, predicted.labels)))
    crowds = np.append(False, truth.iscrowd) & (truth_areas > 0)
    last = panoptic.last_crowd(np.append(-1, truth.labels), crowds, classes)[np.append(-1, predicted.labels)]
    on_crowd = np.where(last > 0, table[np.arange(d), last], 0)
    there = np.flatnonzero(areas[1:] > 0)  # one without pixels is none
    known = np.flatnonzero(truth_areas[1:] > 0)
    return Overlaps(
        iou=overlap[1:, 1:][np.ix_(there, known)],
        labels=predicted.labels[there],
        scores=np.ones(there.size),
        areas=areas[1:][there],
        rows=there,
        truth_labels=truth.labels[known],
        truth_areas=truth_areas[1:][known],
        truth_rows=known,
        crowd=truth.iscrowd[known],
        excused=(2 * (table[:, 0] + on_crowd) > areas)[1:][there],
    )


def matches(overlaps: Overlaps) -> np.ndarray:
    """int64[d]: the truth that each prediction takes, or -1."""
    same = (overlaps.labels[:, None] == overlaps.truth_labels) & ~overlaps.crowd
    match, taken = np.full(len(overlaps.labels), -1), np.zeros(len(overlaps.truth_labels), bool)
    d, g = np.nonzero(same & (overlaps.iou >= MATCH))
    for i, k in zip(*(column[np.lexsort((-g, -overlaps.iou[d, g], d))].tolist() for column in (d, g)), strict=True):
        if match[i] < 0 and not taken[k]:
            match[i], taken[k] = k, True
    return match


def failures(overlaps: Overlaps, match: np.ndarray) -> np.ndarray:
    """FAILURE[n]: of the predictions in their order, then of the truths that were missed."""
    wrong = np.flatnonzero((match < 0) & ~overlaps.excused)
    taken = np.zeros(len(overlaps.truth_labels), bool)
    taken[match[match >= 0]] = True
    same = overlaps.labels[wrong, None] == overlaps.truth_labels
    overlap = np.where(overlaps.crowd, 0.0, overlaps.iou[wrong])
    (own, at_own), (other, at_other), (used, at_used), (any_, at_any) = (
        _best(np.where(allowed, overlap, 0.0)) for allowed in (same, ~same, same & taken, np.ones_like(same))
    )
    cases = [(own >= NEAR) & (own <= MATCH), other >= MATCH, used >= MATCH, any_ <= NEAR]
    kinds = (BADLY_LOCALISED, WRONG_CLASS, DUPLICATE, FALSE_POSITIVE)
    found = np.zeros(wrong.size, FAILURE)
    found["kind"] = np.select(cases, kinds, BOTH)
    found["truth"] = np.select(cases, [at_own, at_other, at_used, np.full(wrong.size, -1)], at_any)
    found["predicted"], found["label"] = overlaps.rows[wrong], overlaps.labels[wrong]
    found["score"] = overlaps.scores[wrong]
    stands_for = found["truth"][np.isin(found["kind"], (BADLY_LOCALISED, WRONG_CLASS))]
    taken[stands_for] = True
    missed = np.zeros(np.count_nonzero(~taken & ~overlaps.crowd), FAILURE)
    missed["kind"], missed["truth"] = MISSED, np.flatnonzero(~taken & ~overlaps.crowd)
    missed["predicted"] = missed["label"] = -1
    missed["score"] = 1.0
    rows = np.concatenate([found, missed])
    has = rows["truth"] >= 0
    rows["truth_label"] = np.where(has, _at(overlaps.truth_labels, rows["truth"]), -1)
    rows["area"] = np.where(has, _at(overlaps.truth_areas, rows["truth"]), 0)
    lone = np.flatnonzero(found["truth"] < 0)
    rows["area"][lone] = overlaps.areas[wrong[lone]]
    both = np.flatnonzero(found["truth"] >= 0)
    rows["iou"][both] = overlap[both, found["truth"][both]]
    rows["truth"][has] = overlaps.truth_rows[rows["truth"][has]]
    return rows


def _best(overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float[d, g] -> the largest of each row, and where it is; 0 of nothing."""
    if not overlap.shape[1]:
        return np.zeros(len(overlap)), np.full(len(overlap), -1)
    at = overlap.argmax(axis=1)
    return overlap[np.arange(len(overlap)), at], at


def _at(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """values[rows], of which some may be -1 and mean nothing."""
    found: np.ndarray = np.append(values, 0)[rows]
    return found


def _iscrowd(segment: Segment) -> bool:
    return segment.iscrowd


def _category(segment: Segment) -> int:
    return segment.category
