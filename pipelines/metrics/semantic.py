"""IoU, Dice and accuracies of semantic maps, from one confusion matrix.

Pixels whose truth is ignored count nowhere. Background is a class like any other: whether it is in the class table
decides whether it is in the means. A class that neither truth nor prediction has is undefined (None), not 0, and left
out of the means; one that is predicted but never true has IoU 0 and no accuracy.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from pipelines.data.schema import IGNORE
from pipelines.metrics.ratios import mean, plain, ratio

# OpenCV counts in float32, which is exact up to here.
EXACT = 1 << 24


class SemanticMetrics:
    """`names` is the class table; `ignore` the value, above all class ids, that is no class."""

    def __init__(self, names: Sequence[str], *, ignore: int = IGNORE):
        self.names, self.ignore = tuple(names), ignore
        if not len(self.names) <= ignore <= 255:
            raise ValueError(f"the ignored value {ignore} must be in {len(self.names)}..255, above the class ids")
        # Rows are truths, columns predictions; the last column holds what was left without a class.
        self._counts = np.zeros((len(self.names), len(self.names) + 1), np.int64)

    @property
    def confusion(self) -> np.ndarray:
        """int64[n, n]: pixels by class, true and predicted."""
        return self._counts[:, :-1].copy()

    @property
    def unassigned(self) -> np.ndarray:
        """int64[n]: pixels of each true class that were predicted as ignored."""
        return self._counts[:, -1].copy()

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """Maps of equal shape that hold class ids or the ignored value."""
        if truth.shape != predicted.shape:
            raise ValueError(f"truth of {truth.shape} with a prediction of {predicted.shape}")
        n = len(self.names)
        counts = _histogram(_bytes(truth, "truth"), _bytes(predicted, "prediction"))
        for what, seen in (("truth", counts.sum(axis=1)), ("prediction", counts.sum(axis=0))):
            strange = [i for i in range(n, 256) if seen[i] and i != self.ignore]
            if strange:
                raise ValueError(f"{what} has class ids {strange} with {n} classes and {self.ignore} for ignored")
        self._counts[:, :n] += counts[:n, :n]
        self._counts[:, n] += counts[:n, self.ignore]

    def merge(self, other: "SemanticMetrics") -> None:
        if (self.names, self.ignore) != (other.names, other.ignore):
            raise ValueError(f"cannot merge metrics of {other.names} into {self.names}")
        self._counts += other._counts

    @property
    def totals(self) -> np.ndarray:
        """int64[n, 3]: the pixels of each class that are right, true, predicted."""
        right, true = np.diagonal(self._counts), self._counts.sum(axis=1)
        return np.stack([right, true, self._counts[:, :-1].sum(axis=0)], axis=-1)

    def compute(self) -> dict[str, Any]:
        found = scores(self.totals)
        return {name: self._by_name(values) if values.ndim else plain(values) for name, values in found.items()}

    def _by_name(self, values: np.ndarray) -> dict[str, float | None]:
        return {n: plain(v) for n, v in zip(self.names, values, strict=True)}


def scores(totals: np.ndarray) -> dict[str, np.ndarray]:
    """[..., n, 3] as `SemanticMetrics.totals` -> each score as float64[...], by class [..., n]; NaN is undefined."""
    right, true, predicted = np.moveaxis(totals, -1, 0)
    iou, accuracy = ratio(right, true + predicted - right), ratio(right, true)
    pixels = true.sum(axis=-1)
    return {
        "miou": mean(iou),
        "pixel_accuracy": ratio(right.sum(axis=-1), pixels),
        "mean_accuracy": mean(accuracy),
        # A class that is never true weighs nothing, whatever its IoU.
        "frequency_weighted_iou": ratio(np.nansum(iou * true, axis=-1), pixels),
        "dice": mean(ratio(2 * right, true + predicted)),
        "iou": iou,
        "accuracy": accuracy,
    }


def _bytes(labels: np.ndarray, what: str) -> np.ndarray:
    """Any integers -> uint8[pixels]."""
    if labels.dtype != np.uint8:
        if labels.dtype.kind not in "iub":
            raise ValueError(f"{what} must hold integers, got {labels.dtype}")
        if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
            raise ValueError(f"{what} has class ids {labels.min()}..{labels.max()}, allowed are 0..255")
    return labels.astype(np.uint8, copy=False).reshape(-1)


def _histogram(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """uint8[pixels] twice -> int64[256, 256]."""
    counts = np.zeros((256, 256), np.int64)
    for i in range(0, truth.size, EXACT):
        maps = [truth[i : i + EXACT], predicted[i : i + EXACT]]
        counts += cv2.calcHist(maps, [0, 1], None, [256, 256], [0, 256, 0, 256]).astype(np.int64)
    return counts
