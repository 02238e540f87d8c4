"""Expected and maximum calibration error (Guo et al. 2017, arXiv 1706.04599): does a model know how sure it may be?

Every labelled pixel that was given a class falls into one of 15 bins of equal width by the probability that the model
gave that class; what lies on an edge belongs to the lower bin. In a bin, the share of pixels that are right is held
against their mean probability: ECE is the mean difference, weighted by the bins' pixels, MCE the largest. Bins without
pixels count nowhere. A model that gives no probabilities has neither (None).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.data.schema import IGNORE

BINS = 15
# Probabilities are summed in whole multiples of this (float32's own spacing below 1), so that their order is no matter.
UNIT = 1 << 24


@dataclass(frozen=True, kw_only=True, slots=True)
class Bin:
    """What has a probability in (low, high]: pixels, or detections."""

    low: float
    high: float
    confidence: float  # their mean probability
    accuracy: float  # the share of them that is right
    share: float  # of all of them


class CalibrationCounts:
    """What bins are made of."""

    def __init__(self) -> None:
        self._counts = np.zeros((3, BINS), np.int64)  # how many, those that are right, the sum of probabilities in UNIT

    def add(self, confidence: np.ndarray, right: np.ndarray) -> None:
        """float[n] in 0..1 and bool[n]."""
        sure = confidence.astype(np.float64)
        if sure.size and not (sure.min() >= 0 and sure.max() <= 1):  # NaN fails both
            raise ValueError(f"confidences must be probabilities, got {sure.min():g}..{sure.max():g}")
        index = np.maximum(np.ceil(sure * BINS).astype(np.int64) - 1, 0)
        # bincount adds weights as float64: whole numbers below 2**53 for images of less than 2**29 pixels.
        for row, weights in zip(self._counts, (None, right, np.rint(sure * UNIT)), strict=True):
            row += np.bincount(index, weights, minlength=BINS).astype(np.int64)

    def merge(self, other: "CalibrationCounts") -> None:
        self._counts += other._counts

    def bins(self) -> list[Bin]:
        """Those that have any, for a reliability diagram."""
        count, right, sure = self._counts
        return [
            Bin(
                low=i / BINS,
                high=(i + 1) / BINS,
                confidence=float(sure[i] / UNIT / count[i]),
                accuracy=float(right[i] / count[i]),
                share=float(count[i] / count.sum()),
            )
            for i in np.flatnonzero(count).tolist()
        ]

    def compute(self) -> dict[str, Any]:
        gaps = [(b.share, abs(b.accuracy - b.confidence)) for b in self.bins()]
        if not gaps:
            return {"ece": None, "mce": None}
        return {"ece": sum(share * gap for share, gap in gaps), "mce": max(gap for _, gap in gaps)}


class CalibrationMetrics(CalibrationCounts):
    """Of semantic maps."""

    def update(self, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> None:
        """Maps of class ids or IGNORE, and the probability of each predicted class, all of equal shape."""
        if not truth.shape == predicted.shape == confidence.shape:
            raise ValueError(f"truth of {truth.shape}, prediction of {predicted.shape}, confidence {confidence.shape}")
        counted = (truth != IGNORE) & (predicted != IGNORE)
        self.add(confidence[counted], (truth == predicted)[counted])
