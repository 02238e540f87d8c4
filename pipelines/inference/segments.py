"""What a model found in an image, one mask after the other, whatever its task."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.data import rle, runs
from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.data.schema import ClassInfo

SAME = 0.5  # IoU from which on a segment of a panoptic map is one of the instances


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """One mask: an instance, a segment of a panoptic map, or all pixels of a class."""

    category: int  # class id
    score: float | None  # 0..1; None where the model gives none
    mask: np.ndarray  # bool[h, w]; those of instances may overlap


def segments(prediction: Prediction, *, min_score: float = 0.0) -> list[Found]:
    """Of a panoptic map its segments, in the order of their ids; of instances those with a score of `min_score`, the
    best first; of a semantic map its classes. A mask of no pixel is left out of the last two."""
    if prediction.panoptic is not None:
        return list(_of_panoptic(prediction.panoptic, prediction))
    if prediction.instances is not None:
        return list(_of_instances(prediction.instances, min_score))
    return list(_of_classes(prediction))


def row(found: Found, number: int, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """In COCO's words: bbox is x, y, width, height, and rle its compressed run lengths."""
    counts = rle.encode(found.mask)
    height, width = found.mask.shape
    return {
        "id": number,
        "category": found.category,
        "name": classes[found.category].name,
        "isthing": classes[found.category].isthing,
        "score": None if found.score is None else round(found.score, 6),
        "bbox": list(rle.box(counts, height)),
        "area": rle.area(counts),
        "rle": {"size": [height, width], "counts": rle.to_string(counts)},
    }


def id_map(found: Sequence[Found], shape: tuple[int, int]) -> np.ndarray:
    """uint16[h, w]: the number of the segment at each pixel, from 1 on, 0 for none; the first is in front."""
    ids = np.zeros(shape, np.uint16)
    for number, each in reversed(list(enumerate(found, start=1))):
        ids[each.mask] = number
    return ids


def _of_panoptic(view: Panoptic, prediction: Prediction) -> Iterator[Found]:
    scores = _scores(view, prediction.instances)
    for number, category in enumerate(view.labels.tolist(), start=1):
        mask, score = view.ids == number, scores.get(number)
        yield Found(category=category, score=_mean(prediction.confidence, mask) if score is None else score, mask=mask)


def _scores(view: Panoptic, instances: Instances | None) -> dict[int, float]:
    """By its id, the score of the instance that a segment was made of: the most alike of its class."""
    if instances is None or not len(instances) or not view.labels.size:
        return {}
    count = len(view.labels) + 1
    common = runs.overlaps(*runs.of_masks(instances.masks), view.ids, masks=len(instances), count=count)
    areas = np.bincount(view.ids.reshape(-1), minlength=count)
    iou = common / np.maximum(instances.masks.sum(axis=(1, 2))[:, None] + areas - common, 1)
    iou[:, 1:][instances.labels[:, None] != view.labels] = 0
    best = iou.argmax(axis=0).tolist()
    return {k: float(instances.scores[best[k]]) for k in range(1, count) if iou[best[k], k] >= SAME}


def _of_instances(found: Instances, min_score: float) -> Iterator[Found]:
    for i in np.argsort(-found.scores, kind="stable").tolist():
        if found.scores[i] >= min_score and found.masks[i].any():
            yield Found(category=int(found.labels[i]), score=float(found.scores[i]), mask=found.masks[i])


def _of_classes(prediction: Prediction) -> Iterator[Found]:
    if prediction.semantic is None:
        raise ValueError("a prediction without a view")
    present = np.flatnonzero(np.bincount(prediction.semantic.reshape(-1), minlength=1))
    for category in present.tolist():
        mask = prediction.semantic == category
        yield Found(category=category, score=_mean(prediction.confidence, mask), mask=mask)


def _mean(confidence: np.ndarray | None, mask: np.ndarray) -> float | None:
    return float(confidence[mask].mean()) if confidence is not None and mask.any() else None
