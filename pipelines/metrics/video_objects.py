"""J and F of masks that were propagated through a video, as DAVIS 2017 defines them for the semi-supervised task
(Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv 1704.00675; github.com/davisvideochallenge/davis2017-evaluation).

J is the IoU of an object's masks in a frame. F is the F1 of their outlines: a pixel of one is met when the other's is
no farther than 0.008 of the diagonal, rounded up. Where neither mask has a pixel both are 1. Each object has the mean
of both over its frames, their recall (the share of frames above 0.5) and their decay (the mean of its first quarter of
frames less that of its last); the scores are the means of all objects', whatever the video.

An object's frames are those behind the one in which its mask is given, without the video's last one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from pipelines.metrics.ratios import plain

BOUND = 0.008  # of the diagonal
REACHED = 0.5  # beyond it a frame is recalled
QUARTERS = 4
MEASURES = ("j", "f")


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectScores:
    """One object of one video."""

    video: str
    object: int
    j: np.ndarray  # float64[frames]
    f: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.video}_{self.object}"


class VideoObjectMetrics:
    """Two numbers per object and frame are kept, and nothing dense."""

    def __init__(self) -> None:
        self.objects: list[ObjectScores] = []

    def update(
        self, video: str, given: Mapping[int, int], frames: Iterable[tuple[np.ndarray, np.ndarray]], *, count: int
    ) -> None:
        """One video of `count` frames: of each, in order, the maps [h, w] of its true and its predicted objects, 0 for
        none. `given`: the objects that count, and the frame in which each one's mask was given."""
        scores: dict[int, list[tuple[float, float]]] = {identity: [] for identity in given}
        seen = 0
        for k, (truth, predicted) in enumerate(frames):
            seen += 1
            if truth.shape != predicted.shape:
                raise ValueError(f"{video}, frame {k}: masks of {predicted.shape}, expected {truth.shape}")
            for identity in (i for i, first in given.items() if first < k < count - 1):
                scores[identity].append(region_and_contour(truth == identity, predicted == identity))
        if seen != count:
            raise ValueError(f"{video}: {seen} frames, expected {count}")
        for identity, values in scores.items():
            j, f = np.array(values, np.float64).reshape(-1, 2).T
            self.objects.append(ObjectScores(video=video, object=identity, j=j, f=f))

    def merge(self, other: "VideoObjectMetrics") -> None:
        self.objects += other.objects

    def compute(self) -> dict[str, Any]:
        """`jf`, and of `j` and `f` the mean, `_recall` and `_decay`; under `per_object` the means of each."""
        found: dict[str, Any] = {}
        for name in MEASURES:
            values = [statistics(getattr(each, name)) for each in self.objects if len(each.j)]
            means = np.mean(values, axis=0) if values else np.full(3, np.nan)
            found |= dict(zip((name, f"{name}_recall", f"{name}_decay"), map(plain, means), strict=True))
        per_object = {each.name: {name: _mean(getattr(each, name)) for name in MEASURES} for each in self.objects}
        jf = None if found["j"] is None else (found["j"] + found["f"]) / 2
        return {"jf": jf, **found, "per_object": per_object}


def statistics(values: np.ndarray) -> tuple[float, float, float]:
    """float64[frames] -> mean, recall, decay."""
    ends = np.round(np.linspace(1, len(values), QUARTERS + 1) + 1e-10).astype(int) - 1
    first, *_, last = (values[low : high + 1].mean() for low, high in pairwise(ends))
    return float(values.mean()), float((values > REACHED).mean()), float(first - last)


def region_and_contour(truth: np.ndarray, predicted: np.ndarray) -> tuple[float, float]:
    """bool[h, w] of one object -> J and F. Only the box around both is looked at."""
    either = np.ascontiguousarray(truth | predicted)
    x, y, width, height = cv2.boundingRect(either.view(np.uint8))
    if not width:
        return 1.0, 1.0
    union = np.count_nonzero(either[y : y + height, x : x + width])
    radius = int(np.ceil(BOUND * np.linalg.norm(truth.shape)))
    # A mask's outline begins a pixel above it and to its left; what is met lies within the radius of that.
    box = (slice(max(y - 1, 0), y + height), slice(max(x - 1, 0), x + width))
    shared = np.count_nonzero(truth[box] & predicted[box])
    ends = (box[0].stop == truth.shape[0], box[1].stop == truth.shape[1])
    return shared / union, contour(truth[box], predicted[box], radius=radius, ends=ends)


def contour(truth: np.ndarray, predicted: np.ndarray, *, radius: int, ends: tuple[bool, bool]) -> float:
    """F of masks bool[h, w]; `ends`: whether the image ends with their last row, and with their last column."""
    outlines = [_outline(mask, ends) for mask in (truth, predicted)]
    there, found = map(np.count_nonzero, outlines)
    if not there or not found:
        return 1.0 if there == found else 0.0
    near_truth, near_found = (cv2.dilate(o.view(np.uint8), _disc(radius)).view(bool) for o in outlines)
    precision = np.count_nonzero(outlines[1] & near_truth) / found
    recall = np.count_nonzero(outlines[0] & near_found) / there
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _outline(mask: np.ndarray, ends: tuple[bool, bool]) -> np.ndarray:
    """Pixels that differ from the one to the right, below, or both; beyond the image's end nothing differs."""
    last_row, last_column = ends
    padded = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), bool)
    padded[:-1, :-1] = mask
    if last_row:
        padded[-1] = padded[-2]
    if last_column:
        padded[:, -1] = padded[:, -2]
    here, right, below, across = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    return np.ascontiguousarray((here != right) | (here != below) | (here != across))


@cache
def _disc(radius: int) -> np.ndarray:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2, np.uint8)


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None
