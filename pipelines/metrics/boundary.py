"""Boundary F1 (Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013).

A boundary pixel of a class is one that has it beside one that has not (above, below, left or right). Precision is the
share of a class's predicted boundary that lies within `tolerance` of its true one, recall the share of its true one
within `tolerance` of the predicted one; F1 is their harmonic mean, 0 if nothing matches. Distances are Euclidean.

A class's score is the mean of its images' scores, as in the paper: each image counts the same, however long its
boundaries. Its images are those whose truth has it. What is invented elsewhere costs the classes that it covers, not
this one: a stray pixel would weigh as much as an image full of the class. A class that is in no truth has no score
(None); nor does an image give one where the class has no boundary in either map, which it fills.

Pixels whose truth is ignored are beyond the picture, as what lies outside it is: they have no boundary and make none,
whatever is predicted there. A pixel that was predicted as no class ends its neighbours' classes as any other does.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pipelines.data.schema import IGNORE
from pipelines.metrics.ratios import mean, plain, ratio

# F1s are summed in whole multiples of this, so that their order does not matter.
UNIT = 1 << 40
APART = 1 << 20  # pixels between the boundaries of two classes, laid side by side: more than any image has


class BoundaryMetrics:
    """`names` is the class table; `tolerance` a fraction of an image's diagonal."""

    def __init__(self, names: Sequence[str], *, tolerance: float):
        self.names, self.tolerance = tuple(names), tolerance
        self._f1, self._images = (np.zeros(len(self.names), np.int64) for _ in range(2))

    @property
    def totals(self) -> np.ndarray:
        """float64[n, 2]: the sum of each class's F1s, and in how many images it has one."""
        return np.stack([self._f1 / UNIT, self._images], axis=-1)

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Maps of equal shape that hold class ids or IGNORE."""
        n, pixels = len(self.names), self.tolerance * float(np.hypot(*truth.shape))
        found, predictions, met, truths = match(truth, predicted, classes=n, distance=pixels)
        f1 = np.zeros(n)  # of precision and recall, multiplied out: P = found / predictions, R = met / truths
        np.divide(2.0 * found * met, found * truths + met * predictions, out=f1, where=(found > 0) & (met > 0))
        scored = np.bincount(truth.reshape(-1), minlength=n)[:n] > 0
        scored &= predictions + truths > 0
        self._f1 += np.where(scored, np.rint(f1 * UNIT), 0).astype(np.int64)
        self._images += scored

    def merge(self, other: "BoundaryMetrics") -> None:
        if (self.names, self.tolerance) != (other.names, other.tolerance):
            raise ValueError(f"cannot merge metrics of {other.names}, {other.tolerance:g} into {self.names}")
        self._f1 += other._f1
        self._images += other._images

    def compute(self) -> dict[str, Any]:
        found = scores(self.totals)
        by_name = zip(self.names, found["boundary_f1_per_class"], strict=True)
        return {
            "boundary_f1": plain(found["boundary_f1"]),
            "boundary_f1_per_class": {name: plain(value) for name, value in by_name},
        }


def scores(totals: np.ndarray) -> dict[str, np.ndarray]:
    """[..., n, 2] as `BoundaryMetrics.totals` -> each class's score as float64[..., n] and their mean as [...]."""
    per_class = ratio(totals[..., 0], totals[..., 1])
    return {"boundary_f1": mean(per_class), "boundary_f1_per_class": per_class}


def match(truth: np.ndarray, predicted: np.ndarray, *, classes: int, distance: float) -> np.ndarray:
    """Pixels of each class's boundaries, int64[4, classes]: predicted within `distance` of true, predicted,
    true within `distance` of predicted, true."""
    ignored = truth == IGNORE
    points = [_boundary(labels, ignored, classes) for labels in (predicted, truth)]
    # One tree for all classes: far from each other along a third axis, they cannot match.
    trees = [cKDTree(p, balanced_tree=False, compact_nodes=False) for p in points]
    # Squared distances are whole numbers: half a pixel more than the square is a bound that rounding cannot cross.
    bound = np.sqrt(np.floor(distance**2 * (1 + 1e-12)) + 0.5)
    counts = np.zeros((4, classes), np.int64)
    for k, (of, to) in enumerate(zip(points, trees[::-1], strict=True)):
        near = to.query(of, distance_upper_bound=bound)[0] < bound
        ids = of[:, 2].astype(np.int64) // APART
        counts[2 * k] = np.bincount(ids[near], minlength=classes)
        counts[2 * k + 1] = np.bincount(ids, minlength=classes)
    return counts


def _boundary(labels: np.ndarray, ignored: np.ndarray, classes: int) -> np.ndarray:
    """float64[points, 3]: row, column, class * APART."""
    edge = np.zeros(labels.shape, bool)
    for one, other in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        apart = (labels[one] != labels[other]) & ~(ignored[one] | ignored[other])
        edge[one] |= apart
        edge[other] |= apart
    edge &= labels < classes
    rows, columns = np.nonzero(edge)
    return np.stack([rows, columns, labels[rows, columns].astype(np.float64) * APART], axis=-1)
