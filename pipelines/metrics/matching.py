"""COCO's greedy matching of detections and truths (github.com/cocodataset/cocoapi, pycocotools/cocoeval.py).

In falling order of score each detection takes the truth of its class that it overlaps most, if the IoU reaches the
threshold and nobody took that truth before; of equals the last. Truths that do not count (crowds, and those outside
the area range) are a second choice: a detection that takes one, or takes none and is itself outside the range, does
not count either. Crowds can be taken again and again.

There are 40 settings: 4 area ranges by 10 thresholds. Each setting is one bit, and all of them are matched at once.
"""

from collections.abc import Mapping

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # as the COCO API spaces them, to the last bit
Ranges = Mapping[str, tuple[float, float]]  # of areas: low, high
RANGES: Ranges = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
SETTINGS = len(RANGES) * len(THRESHOLDS)  # bit r * 10 + t is range r at threshold t

_RANGE = np.uint64((1 << len(THRESHOLDS)) - 1)  # all thresholds of the first range
_SHIFTS = np.arange(len(RANGES), dtype=np.uint64) * np.uint64(len(THRESHOLDS))
# _REACHED[k]: the settings whose threshold is one of the k lowest
_REACHED = np.array([((1 << k) - 1) * sum(1 << int(s) for s in _SHIFTS) for k in range(len(THRESHOLDS) + 1)], np.uint64)


def inside(areas: np.ndarray, ranges: Ranges = RANGES) -> np.ndarray:
    """[n] -> bool[n, ranges]; a bound belongs to both of its ranges."""
    low, high = np.array(list(ranges.values())).T
    within: np.ndarray = (areas[:, None] >= low) & (areas[:, None] <= high)
    return within


def unpack(bits: np.ndarray) -> np.ndarray:
    """uint64[n] -> bool[n, ranges, thresholds]."""
    settings = np.arange(SETTINGS, dtype=np.uint64).reshape(len(RANGES), len(THRESHOLDS))
    return (bits[:, None, None] >> settings & np.uint64(1)).astype(bool)


def match(
    iou: np.ndarray,
    candidates: np.ndarray,
    *,
    areas: np.ndarray,
    truth_areas: np.ndarray,
    crowd: np.ndarray,
    ranges: Ranges = RANGES,
) -> np.ndarray:
    """One image, in v independent views (by mask, by box): IoU float64[v, d, g], detections in falling order of
    score; candidates bool[d, g]: of the same class; areas [v, d] of the detections.

    -> uint64[v, d, 2]: the settings where each detection is right, and where it is wrong; elsewhere it does not count.
    """
    detections, truths = areas.size, len(iou) * len(crowd)
    view, d, g = np.nonzero(candidates & (iou >= THRESHOLDS[0]))
    value = iou[view, d, g]
    reached = _REACHED[np.searchsorted(THRESHOLDS, value, side="right")]
    counts = _settings(inside(truth_areas, ranges) & ~crowd[:, None])[g]
    # Each pair is offered twice: where its truth counts, then where it does not.
    allowed = np.concatenate([reached & counts, reached & ~counts])
    second = np.repeat([False, True], d.size)
    d, g, value = (np.tile(x, 2) for x in (view * areas.shape[1] + d, view * len(crowd) + g, value))
    order = np.lexsort((-g, -value, second, d))
    order = order[allowed[order] != 0]

    right, ignored, taken = [0] * detections, [0] * detections, [0] * truths
    is_crowd = crowd.tolist() * len(iou)
    offers = (column[order].tolist() for column in (d, g, second, allowed))
    for i, k, uncounted, settings in zip(*offers, strict=True):
        won = settings & ~(right[i] | ignored[i] | taken[k])
        if not is_crowd[k]:
            taken[k] |= won
        if uncounted:
            ignored[i] |= won
        else:
            right[i] |= won
    tp = np.array(right, np.uint64)
    fp = _settings(inside(areas.reshape(-1), ranges)) & ~tp & ~np.array(ignored, np.uint64)
    return np.stack([tp, fp], axis=1).reshape(*areas.shape, 2)


def _settings(ranges: np.ndarray) -> np.ndarray:
    """bool[n, ranges] -> uint64[n]: all thresholds of those ranges."""
    bits: np.ndarray = np.where(ranges, _RANGE << _SHIFTS, np.uint64(0)).sum(axis=1, dtype=np.uint64)
    return bits
