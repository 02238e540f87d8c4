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

    def compute(self) -> dict[str, Any]:
        true, predicted = self._counts.sum(axis=1), self._counts[:, :-1].sum(axis=0)
        hits = np.diagonal(self._counts)
        iou, accuracy = _ratio(hits, true + predicted - hits), _ratio(hits, true)
        total = true.sum()
        return {
            "miou": _mean(iou),
            "pixel_accuracy": float(hits.sum() / total) if total else None,
            "mean_accuracy": _mean(accuracy),
            # A class that is never true weighs nothing, whatever its IoU.
            "frequency_weighted_iou": float(np.nansum(iou * true) / total) if total else None,
            "dice": _mean(_ratio(2 * hits, true + predicted)),
            "iou": self._by_name(iou),
            "accuracy": self._by_name(accuracy),
        }

    def _by_name(self, values: np.ndarray) -> dict[str, float | None]:
        return {n: None if np.isnan(v) else v for n, v in zip(self.names, values.tolist(), strict=True)}


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


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by."""
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(values: np.ndarray) -> float | None:
    """Of the defined values."""
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else None
