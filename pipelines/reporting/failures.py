"""The failures that a report shows: which ones, and a crop of each."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from skimage.measure import label as components

from pipelines.data import panoptic, rle
from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo, Record
from pipelines.evaluation.evaluator import Predicts, Records
from pipelines.loading.batch import decode
from pipelines.metrics import sizes
from pipelines.metrics.pixel_failures import PixelFailures
from pipelines.metrics.segment_failures import KINDS, SegmentFailures
from pipelines.reporting import pictures

MOST, IMAGES, SIDE = 96, 40, 168  # crops, images that they are of, pixels of a crop
SEGMENT_KINDS = {
    "missed": ("missed", "no prediction of its class overlaps it enough, and no other failure stands for it"),
    "false_positive": ("false positive", "overlaps no truth by more than 0.1"),
    "duplicate": ("duplicate", "its truth was already found by a surer one"),
    "wrong_class": ("wrong class", "overlaps a truth of another class by 0.5 or more"),
    "badly_localised": ("badly localised", "the right class, but an IoU of 0.1 to 0.5"),
    "both": ("wrong class and place", "another class, and an IoU below 0.5"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One that is shown."""

    image: str  # its id
    kind: str  # of SEGMENT_KINDS; "confused" of pixels
    truth: int | None  # class ids
    predicted: int | None
    size: int  # a place in sizes.NAMES
    area: int
    iou: float | None
    score: float | None
    crop: np.ndarray  # uint8[h, w, 3] RGB


def collect(
    failures: SegmentFailures | PixelFailures,
    predictor: Predicts,
    reader: Records,
    classes: Sequence[ClassInfo],
    *,
    most: int = MOST,
    images: int = IMAGES,
) -> list[Failure]:
    """Some of each kind, class and size, the worst of them first. Their images are predicted again: the masks of a
    whole split do not fit in memory."""
    rows, image = failures.rows()
    if isinstance(failures, SegmentFailures):
        labels = np.where(rows["truth_label"] >= 0, rows["truth_label"], rows["label"])
        cells = (rows["kind"].astype(np.int64) * len(classes) + labels) * len(sizes.NAMES) + sizes.of(rows["area"])
        order = np.lexsort((-rows["area"], -rows["score"]))
    else:
        cells = rows["truth_label"] * len(classes) + rows["label"]
        order = np.argsort(-rows["pixels"], kind="stable")
    chosen = choose(cells, order, image, most=most, images=images)
    by_image: dict[int, list[int]] = defaultdict(list)
    for at in chosen:
        by_image[int(image[at])].append(at)
    found: dict[int, Failure] = {}
    for index, here in sorted(by_image.items()):
        record = reader[index]
        pixels = decode(record)
        prediction = predictor.predict([pixels])[0]
        if isinstance(failures, SegmentFailures):
            made = _segments(record, pixels, prediction, rows[here], classes)
        else:
            made = _regions(record, pixels, prediction, rows[here])
        found.update(zip(here, made, strict=True))
    return [found[at] for at in chosen]


def choose(cells: np.ndarray, order: np.ndarray, image: np.ndarray, *, most: int, images: int) -> list[int]:
    """At most `most` rows of at most `images` images: by the given order the first of each cell, then the second of
    each, and so on, so that what is rare is seen beside what is frequent. Cells and images are numbers, int[n]."""
    by_cell = np.argsort(cells[order], kind="stable")
    _, first, count = np.unique(cells[order][by_cell], return_index=True, return_counts=True)
    rank = np.empty(len(order), np.int64)
    rank[by_cell] = np.arange(len(order)) - np.repeat(first, count)
    seen: set[int] = set()
    chosen: list[int] = []
    for at in order[np.argsort(rank, kind="stable")].tolist():
        if len(chosen) == most:
            break
        if (here := int(image[at])) in seen or len(seen) < images:
            seen.add(here)
            chosen.append(at)
    return chosen


def _segments(
    record: Record, image: np.ndarray, prediction: Prediction, rows: np.ndarray, classes: Sequence[ClassInfo]
) -> Iterator[Failure]:
    """Each with its true mask, its predicted mask, or both."""
    things = tuple(i for i, c in enumerate(classes) if c.isthing)
    truth = None if prediction.panoptic is None else panoptic.truth(record, things)
    for row in rows:
        at, found = int(row["truth"]), int(row["predicted"])
        shapes = []
        if at >= 0 and truth is not None:
            shapes.append((np.asarray(truth.ids == at + 1), pictures.TRUTH))
        elif at >= 0:
            shapes.append((rle.decode(record.segments[at].counts, record.height, record.width), pictures.TRUTH))
        if found >= 0:
            shapes.append((_predicted(prediction, found), pictures.PREDICTION))
        yield Failure(
            image=record.id,
            kind=KINDS[row["kind"]],
            truth=int(row["truth_label"]) if at >= 0 else None,
            predicted=int(row["label"]) if found >= 0 else None,
            size=int(sizes.of(row["area"])),
            area=int(row["area"]),
            iou=float(row["iou"]) if at >= 0 and found >= 0 else None,
            score=float(row["score"]) if found >= 0 and prediction.panoptic is None else None,
            crop=pictures.outlined(image, shapes, side=SIDE),
        )


def _predicted(prediction: Prediction, row: int) -> np.ndarray:
    if prediction.panoptic is not None:
        return np.asarray(prediction.panoptic.ids == row + 1)
    if prediction.instances is None:
        raise ValueError("the model gave neither a panoptic view nor instances")
    mask: np.ndarray = prediction.instances.masks[row]
    return mask


def _regions(record: Record, image: np.ndarray, prediction: Prediction, rows: np.ndarray) -> Iterator[Failure]:
    """Of each pair of classes all pixels that were mixed up, around the largest piece of them."""
    for row in rows:
        wrong = (record.semantic == row["truth_label"]) & (prediction.semantic == row["label"])
        pieces = components(wrong, connectivity=1)
        areas = np.bincount(pieces[wrong])
        yield Failure(
            image=record.id,
            kind="confused",
            truth=int(row["truth_label"]),
            predicted=int(row["label"]),
            size=int(sizes.of(areas.max())),
            area=int(row["pixels"]),
            iou=None,
            score=None,
            crop=pictures.outlined(image, [(pieces == areas.argmax(), pictures.PREDICTION)], side=SIDE),
        )
