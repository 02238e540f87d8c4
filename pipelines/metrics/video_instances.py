"""AP and recall of tracks, as YouTube-VIS defines them (Yang et al. 2019, arXiv 1905.04804).

They are COCO's, of videos in place of images (`ranked`): two tracks overlap by the pixels that they share in all frames
together, over those that either has, so that a track that is right in half of the frames, or changes over to another
object, is half right. A track's size is the mean of its areas where it is seen; the bounds are those of the published
evaluation (github.com/youtubevos/cocoapi, ytvoseval.py). A crowd that a track takes makes that track not count.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data import rle
from pipelines.data.tracks import Track
from pipelines.metrics import iou
from pipelines.metrics.ranked import RankedMetrics

SIZES = {"all": (0.0, 1e10), "small": (0.0, 128.0**2), "medium": (128.0**2, 256.0**2), "large": (256.0**2, 1e10)}


class VideoInstanceMetrics(RankedMetrics):
    """Of videos, one by one."""

    ranges = SIZES

    def update(self, truth: Sequence[Track], size: tuple[int, int], predicted: Sequence[Track]) -> None:
        """One video of (height, width)."""
        labels = np.array([t.category for t in predicted], np.int64)
        categories = np.array([t.category for t in truth], np.int64)
        scores = np.array([t.score for t in predicted], np.float64)
        self._refuse_strange(categories, labels)
        if not np.isfinite(scores).all():
            raise ValueError("scores must be finite")
        if len(lengths := {len(t.masks) for t in (*truth, *predicted)}) > 1:
            raise ValueError(f"tracks of {sorted(lengths)} frames in one video")
        self._count(
            scores=scores,
            labels=labels,
            categories=categories,
            crowd=np.array([t.iscrowd for t in truth], bool),
            overlaps=overlap(predicted, truth, size)[None],
            areas=_mean_areas(predicted)[None],
            truth_areas=_mean_areas(truth),
        )

    def compute(self) -> dict[str, Any]:
        """The twelve numbers, and the AP of each class."""
        return self._family([each.detections for each in self.by_class()], view=0)


def overlap(predicted: Sequence[Track], truth: Sequence[Track], size: tuple[int, int]) -> np.ndarray:
    """float64[d, g]: the IoU of each track with each, over all frames together."""
    pixels, nothing = size[0] * size[1], np.array([size[0] * size[1]], np.uint32)
    shared = np.zeros((len(predicted), len(truth)), np.int64)
    if shared.size:
        for k in range(len(truth[0].masks)):
            found, there = ([_or(t.masks[k], nothing) for t in tracks] for tracks in (predicted, truth))
            shared += iou.run_overlaps(found, there, pixels)
    areas, truth_areas = (np.array([sum(_areas(t)) for t in ts], np.int64) for ts in (predicted, truth))
    found_iou: np.ndarray = shared / np.maximum(areas[:, None] + truth_areas - shared, 1)
    return found_iou


def _or(counts: np.ndarray | None, nothing: np.ndarray) -> np.ndarray:
    return nothing if counts is None else counts


def _areas(track: Track) -> list[int]:
    """Of each frame where it is seen."""
    return [area for counts in track.masks if counts is not None and (area := rle.area(counts))]


def _mean_areas(tracks: Sequence[Track]) -> np.ndarray:
    return np.array([np.mean(_areas(t) or [0]) for t in tracks], np.float64)
