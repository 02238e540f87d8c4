"""Whether one model is better than another on the same images: a paired bootstrap over images (Efron and Tibshirani
1993; for its use on metrics such as these: Berg-Kirkpatrick et al., EMNLP 2012).

Both models' scores are resampled with the same draws (`bootstrap`), so what is hard for both falls out of the
difference. Percentile intervals of few images are too narrow, and would tell equal models apart too often; they are
expanded as Hesterberg says (2015, "What Teachers Should Know About the Bootstrap", section 5.3): to the quantiles that
make the interval of a mean as wide as Student's.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from pipelines.metrics import bootstrap


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """The difference's interval, and p of a difference as far from 0 where there is none (two-sided)."""

    low: float
    high: float
    p: float
    resamples: int  # those in which both are defined


def difference(first: np.ndarray, second: np.ndarray, *, images: int, level: float) -> Paired | None:
    """Of replicates [r] of the same draws: `second` minus `first`. None where no resample has both, or there is but one
    image, which says nothing of how others would differ."""
    found = second - first
    found = found[~np.isnan(found)]
    if not found.size or images < 2:
        return None
    low, high = bootstrap.interval(found, expanded(level, images))
    rarer = min(np.count_nonzero(found <= 0), np.count_nonzero(found >= 0))
    beyond = stats.norm.isf(min((1 + rarer) / (1 + found.size), 0.5))
    p = 2 * stats.t.sf(beyond * math.sqrt((images - 1) / images), images - 1)
    return Paired(low=float(low), high=float(high), p=float(p), resamples=found.size)


def expanded(level: float, images: int) -> float:
    """The level whose percentile interval is as wide as Student's at `level`."""
    reach = stats.t.isf((1 - level) / 2, images - 1) * math.sqrt(images / (images - 1))
    return float(1 - 2 * stats.norm.sf(reach))
