"""AP of resamples of the images: what its confidence interval is made of (see `bootstrap`).

AP is no function of sums, for it ranks the detections of all images together. But a resample changes neither a
detection's rank among the others nor whether it is right: an image that was drawn k times has each of its detections
and truths k times, one behind the other. So the detections are ranked once, and a resample is a weight for each.

The copies of one detection stand together. That is the order of images that were drawn, sorted, unless an image has one
score twice in a class.
"""

import numpy as np

from pipelines.metrics import bootstrap, matching
from pipelines.metrics.instance import VIEWS, InstanceMetrics
from pipelines.metrics.ranked import RECALLS, Ranked
from pipelines.metrics.ratios import mean

AP50, AP75 = 0, 5  # places in matching.THRESHOLDS


def replicates(metrics: InstanceMetrics, view: str, *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """Over all sizes, "ap", "ap50" and "ap75" of each resample as float64[r], and "ap_per_class" as [r, classes]; NaN
    where a resample has no truth. The draws are those of `bootstrap.replicates`."""
    classes, images = metrics.by_class(), metrics.images
    rows = max([images, *(len(each.detections) for each in classes)])
    blocks = []
    for drawn in bootstrap.draws(images, resamples, seed, most=max(bootstrap.DRAWS // max(rows, 1), 1)):
        times = np.ascontiguousarray(drawn.T.astype(np.int32))
        blocks.append(np.stack([_precision(each, times, VIEWS[view]) for each in classes], axis=-1))
    found = np.concatenate(blocks, axis=1)  # [thresholds, resamples, classes]
    per_class = found.mean(axis=0)
    return {"ap": mean(per_class), "ap50": mean(found[AP50]), "ap75": mean(found[AP75]), "ap_per_class": per_class}


def _precision(ranked: Ranked, times: np.ndarray, view: int) -> np.ndarray:
    """`times` int32[images, r]: how often each was drawn -> a class's AP at each threshold, float64[thresholds, r]."""
    truths = ranked.truths @ times
    weights = times.take(ranked.image, axis=0)
    right, wrong = (matching.unpack(ranked.detections["settings"][:, view, k])[:, 0] for k in range(2))
    points = _points(truths)
    found = np.stack([_interpolated(weights, right[:, t], wrong[:, t], points) for t in range(right.shape[1])])
    return np.where(truths > 0, found, np.nan)


def _points(truths: np.ndarray) -> np.ndarray:
    """int32[most truths + 1, r]: how many of the recall points are reached by so many hits; none is by no hit."""
    hits = np.arange(truths.max(initial=0) + 1)
    # Hits beyond the truths of a resample do not happen.
    table = np.stack([np.searchsorted(RECALLS, hits / max(n, 1), side="right") for n in truths.tolist()], axis=-1)
    table[0] = 0
    return table.astype(np.int32)


def _interpolated(weights: np.ndarray, right: np.ndarray, wrong: np.ndarray, points: np.ndarray) -> np.ndarray:
    """float64[r]: the mean over the recall points of the best precision there or beyond, as `ranked._interpolate`.

    Copies of a hit stand together, and precision rises from one to the next: the last one's is all of theirs.
    """
    counted = right | wrong
    places = np.flatnonzero(right[counted])
    if not places.size:
        return np.zeros(weights.shape[1])
    seen = np.cumsum(weights[counted], axis=0, dtype=np.int32).take(places, axis=0)
    hits = np.cumsum(weights[right], axis=0, dtype=np.int32)
    best = np.maximum.accumulate((hits / (seen + np.spacing(1)))[::-1])[::-1]
    reached = points.reshape(-1).take(hits * points.shape[1] + np.arange(points.shape[1], dtype=np.int32))
    reached[1:] -= reached[:-1].copy()
    total: np.ndarray = (best * reached).sum(axis=0)
    return total / RECALLS.size
