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
    """The pixels whose probability lies in (low, high]."""

    low: float
    high: float
    confidence: float  # their mean probability
    accuracy: float  # the share of them that is right
    share: float  # of all pixels


class CalibrationMetrics:
    def __init__(self) -> None:
        self._counts = np.zeros((3, BINS), np.int64)  # pixels, those that are right, the sum of probabilities in UNIT

    def update(self, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray) -> None:
        """Maps of class ids or IGNORE, and the probability of each predicted class, all of equal shape."""
        if not truth.shape == predicted.shape == confidence.shape:
            raise ValueError(f"truth of {truth.shape}, prediction of {predicted.shape}, confidence {confidence.shape}")
        counted = (truth != IGNORE) & (predicted != IGNORE)
        sure, right = confidence[counted].astype(np.float64), (truth == predicted)[counted]
        if sure.size and not (sure.min() >= 0 and sure.max() <= 1):  # NaN fails both
            raise ValueError(f"confidences must be probabilities, got {sure.min():g}..{sure.max():g}")
        index = np.maximum(np.ceil(sure * BINS).astype(np.int64) - 1, 0)
        # bincount adds weights as float64: whole numbers below 2**53 for images of less than 2**29 pixels.
        for row, weights in zip(self._counts, (None, right, np.rint(sure * UNIT)), strict=True):
            row += np.bincount(index, weights, minlength=BINS).astype(np.int64)

    def merge(self, other: "CalibrationMetrics") -> None:
        self._counts += other._counts

    def bins(self) -> list[Bin]:
        """Those that have pixels, for a reliability diagram."""
        pixels, right, sure = self._counts
        return [
            Bin(
                low=i / BINS,
                high=(i + 1) / BINS,
                confidence=float(sure[i] / UNIT / pixels[i]),
                accuracy=float(right[i] / pixels[i]),
                share=float(pixels[i] / pixels.sum()),
            )
            for i in np.flatnonzero(pixels).tolist()
        ]

    def compute(self) -> dict[str, Any]:
        gaps = [(b.share, abs(b.accuracy - b.confidence)) for b in self.bins()]
        if not gaps:
            return {"ece": None, "mce": None}
        return {"ece": sum(share * gap for share, gap in gaps), "mce": max(gap for _, gap in gaps)}
