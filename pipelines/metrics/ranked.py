"""Average precision and recall as COCO defines them (Lin et al. 2014), of whatever can be scored and overlapped:
instances of an image, tracks through a video.

The numbers are those of pycocotools' COCOeval, whose protocol is followed to the letter: 10 IoU thresholds, 101
recall points, at most 100 detections per image and class, four area ranges, crowds, and score ties in the order of
images. A class without truths has no value and is left out of every mean; its detections cost nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from pipelines.metrics import matching

RECALLS = np.linspace(0.0, 1.0, 101)
LIMITS = (1, 10, 100)  # detections per image and class
MOST_VIEWS = 3
# What is kept of a detection; `settings` are those where it is right, and those where it is wrong, in each view.
DETECTION = np.dtype([("score", "f8"), ("label", "i4"), ("rank", "u4"), ("settings", "u8", (MOST_VIEWS, 2))])
TRUTH = np.dtype([("label", "i4"), ("inside", "?", len(matching.RANGES))])  # of one that counts: its area ranges


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """One class."""

    detections: np.ndarray  # DETECTION[n] in falling order of score; ties in the order of images
    image: np.ndarray  # int64[n]: which one each is from
    truths: np.ndarray  # int64[images]: of any size


class RankedMetrics:
    """`names` is the class table, `things` the classes in it that have instances. Nothing dense is kept.

    Whoever inherits says in `update` what overlaps what, and in `compute` which views are asked for.
    """

    ranges: Mapping[str, tuple[float, float]] = matching.RANGES

    def __init__(self, names: Sequence[str], *, things: Sequence[int]):
        self.names, self.things = tuple(names), tuple(things)
        self._truths: list[np.ndarray] = []  # one per image
        self._detections: list[np.ndarray] = []  # likewise

    @property
    def options(self) -> tuple[Any, ...]:
        """What two of a kind must share to be merged."""
        return self.names, self.things

    def merge(self, other: Self) -> None:
        """Add what `other` saw, as if its images had come after these."""
        if self.options != other.options:
            raise ValueError(f"cannot merge metrics of {other.options} into {self.options}")
        self._truths += other._truths
        self._detections += other._detections

    @property
    def images(self) -> int:
        return len(self._detections)

    def rows(self) -> dict[str, np.ndarray]:
        """All that AP is made of: the images' rows one behind the other, and how many each image has."""
        return {
            "detections": _laid_out(self._detections, DETECTION)[0],
            "detections_in": np.array([len(rows) for rows in self._detections], np.int64),
            "truths": _laid_out(self._truths, TRUTH)[0],
            "truths_in": np.array([len(rows) for rows in self._truths], np.int64),
        }

    @classmethod
    def of_rows(cls, names: Sequence[str], *, things: Sequence[int], rows: Mapping[str, np.ndarray]) -> Self:
        """From `rows`; ValueError where they are of other classes, or damaged."""
        metrics = cls(names, things=things)
        metrics._detections = _by_image(rows["detections"], rows["detections_in"], DETECTION)
        metrics._truths = _by_image(rows["truths"], rows["truths_in"], TRUTH)
        if len(metrics._detections) != len(metrics._truths):
            raise ValueError(f"detections of {len(metrics._detections)} images, truths of {len(metrics._truths)}")
        metrics._refuse_strange(rows["truths"]["label"], rows["detections"]["label"])
        return metrics

    def each(self) -> Iterator[Self]:
        """Of every image alone."""
        for truths, detections in zip(self._truths, self._detections, strict=True):
            alone = copy(self)
            alone._truths, alone._detections = [truths], [detections]
            yield alone

    def by_class(self) -> list[Ranked]:
        """Of each class what AP is made of."""
        detections, image = _laid_out(self._detections, DETECTION)
        truths, truth_image = _laid_out(self._truths, TRUTH)
        order = np.lexsort((-detections["score"], detections["label"]))
        order = order[detections["rank"][order] < LIMITS[-1]]
        truth_order = np.argsort(truths["label"], kind="stable")
        rows = zip(
            _split(order, detections["label"], len(self.names)),
            _split(truth_order, truths["label"], len(self.names)),
            strict=True,
        )
        return [
            Ranked(
                detections=detections[each],
                image=image[each],
                truths=np.bincount(truth_image[there], minlength=self.images),
            )
            for each, there in rows
        ]

    def _count(
        self,
        *,
        scores: np.ndarray,
        labels: np.ndarray,
        categories: np.ndarray,  # [g] of the truths
        crowd: np.ndarray,
        overlaps: np.ndarray,  # float64[v, d, g]
        areas: np.ndarray,  # [v, d]
        truth_areas: np.ndarray,
    ) -> None:
        """One image, or one video."""
        order, rank = _ranked(labels, scores)
        detections = np.zeros(order.size, DETECTION)
        detections["score"], detections["label"], detections["rank"] = scores[order], labels[order], rank
        detections["settings"][:, : len(areas)] = matching.match(
            overlaps[:, order],
            labels[order, None] == categories,
            areas=areas[:, order],
            truth_areas=truth_areas,
            crowd=crowd,
            ranges=self.ranges,
        ).swapaxes(0, 1)
        self._detections.append(detections)
        truths = np.zeros(np.count_nonzero(~crowd), TRUTH)
        truths["label"] = categories[~crowd]
        truths["inside"] = matching.inside(truth_areas[~crowd], self.ranges)
        self._truths.append(truths)

    def _refuse_strange(self, categories: np.ndarray, labels: np.ndarray) -> None:
        if strange := sorted({*categories.tolist(), *labels.tolist()} - set(self.things)):
            raise ValueError(f"classes {strange} are not among the things {list(self.things)}")

    def _counts(self) -> np.ndarray:
        """int64[classes, ranges]: the truths that count."""
        truths, _ = _laid_out(self._truths, TRUTH)
        counts = np.zeros((len(self.names), len(self.ranges)), np.int64)
        np.add.at(counts, truths["label"], truths["inside"])
        return counts

    def _family(self, by_class: Sequence[np.ndarray], view: int) -> dict[str, Any]:
        counts = self._counts()
        precision, recall = (f(by_class, counts, view) for f in (precisions, recalls))
        sizes = list(enumerate(self.ranges))[1:]
        return {
            "ap": mean(precision[:, 0]),
            "ap50": mean(precision[:, 0, 0]),
            "ap75": mean(precision[:, 0, 5]),
            **{f"ap_{name}": mean(precision[:, r]) for r, name in sizes},
            **{f"ar{limit}": mean(recall[:, 0, :, k]) for k, limit in enumerate(LIMITS)},
            **{f"ar_{name}": mean(recall[:, r, :, -1]) for r, name in sizes},
            "ap_per_class": {self.names[c]: mean(precision[c, 0]) for c in self.things},
        }


def precisions(by_class: Sequence[np.ndarray], truths: np.ndarray, view: int) -> np.ndarray:
    """float64[classes, ranges, thresholds, recall points], NaN where there is no truth."""
    precision = np.full((*truths.shape, len(matching.THRESHOLDS), len(RECALLS)), np.nan)
    for c, detections in enumerate(by_class):
        right, wrong = (matching.unpack(detections["settings"][:, view, k]) for k in range(2))
        wrong = wrong.cumsum(axis=0)
        for r, t in np.argwhere(np.repeat(truths[c, :, None] > 0, precision.shape[2], axis=1)).tolist():
            hits = np.flatnonzero(right[:, r, t])
            precision[c, r, t] = _interpolate(wrong[hits, r, t], int(truths[c, r]))
    return precision


def recalls(by_class: Sequence[np.ndarray], truths: np.ndarray, view: int) -> np.ndarray:
    """float64[classes, ranges, thresholds, limits], NaN where there is no truth."""
    recall = np.full((*truths.shape, len(matching.THRESHOLDS), len(LIMITS)), np.nan)
    for c, detections in enumerate(by_class):
        right = matching.unpack(detections["settings"][:, view, 0])
        for k, limit in enumerate(LIMITS):
            found = right[detections["rank"] < limit].sum(axis=0)
            np.divide(found, truths[c, :, None], out=recall[c, :, :, k], where=truths[c, :, None] > 0)
    return recall


def _laid_out(images: Sequence[np.ndarray], dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """All rows of all images, and the image of each."""
    sizes = [len(rows) for rows in images]
    return np.concatenate([np.zeros(0, dtype), *images]), np.repeat(np.arange(len(images)), sizes)


def _by_image(rows: np.ndarray, sizes: np.ndarray, dtype: np.dtype[Any]) -> list[np.ndarray]:
    if rows.dtype != dtype or (sizes < 0).any() or sizes.sum() != len(rows):
        raise ValueError(f"{len(rows)} rows of {rows.dtype} for {sizes.sum()} of {dtype}")
    return np.split(rows, np.cumsum(sizes)[:-1]) if sizes.size else []


def _split(order: np.ndarray, labels: np.ndarray, classes: int) -> list[np.ndarray]:
    """Rows in the order of their labels, by class."""
    return np.split(order, np.searchsorted(labels[order], np.arange(1, classes)))


def _ranked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order by class and falling score, and each detection's rank in its class; ties stay in order."""
    order = np.lexsort((-scores, labels))
    return order, np.arange(order.size) - np.searchsorted(labels[order], labels[order])


def _interpolate(wrong: np.ndarray, truths: int) -> np.ndarray:
    """The best precision at each recall or beyond it; wrong[i] is how many failed before hit i.

    Precision rises at hits alone, so that no other detection has to be looked at. The spacing keeps COCO's rounding.
    """
    hits = np.arange(1.0, wrong.size + 1)
    best = np.maximum.accumulate((hits / (wrong + hits + np.spacing(1)))[::-1])[::-1]
    needed = np.searchsorted(np.arange(truths + 1) / truths, RECALLS)
    # Recall 0 is reached before the first hit, and the best beyond that is the first hit's best.
    at = np.maximum(needed, 1) - 1
    return np.where(at < best.size, np.append(best, 0.0)[np.minimum(at, best.size)], 0.0)


def mean(values: np.ndarray) -> float | None:
    valid = values[~np.isnan(values)]
    return float(valid.mean()) if valid.size else None
