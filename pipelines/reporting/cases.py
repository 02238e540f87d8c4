"""The images that a report shows: which ones, and each view of them as truth, prediction and error."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.data import panoptic, rle
from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.data.schema import ClassInfo, Record
from pipelines.evaluation.evaluator import Predicts, Records
from pipelines.loading.batch import decode
from pipelines.metrics.instance import CONFIDENT
from pipelines.reporting import pictures
from pipelines.reporting.matching import match


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An image worth showing."""

    kind: str  # best, median or worst
    record: Record
    image: np.ndarray  # uint8[h, w, 3] RGB
    prediction: Prediction
    score: float  # the task's headline metric on this image alone


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """What is written on a picture, and where: fractions of its width and height."""

    x: float
    y: float
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One task's view of a case: pictures of one size, uint8[h, w, 3] RGB."""

    truth: np.ndarray
    prediction: np.ndarray
    errors: np.ndarray
    truth_labels: tuple[Label, ...] = ()
    prediction_labels: tuple[Label, ...] = ()


def select(scores: Sequence[float | None], count: int) -> dict[str, list[int]]:
    """Positions of the `count` best, median and worst scores; none twice, so fewer each where there are few images.
    An image whose score is undefined is in no order."""
    order = sorted((i for i, s in enumerate(scores) if s is not None), key=lambda i: -(scores[i] or 0.0))
    count = min(count, -(-len(order) // 3))
    best, others = order[:count], order[count:]
    middle, worst = others[: max(0, len(others) - count)], others[max(0, len(others) - count) :]
    start = (len(middle) - count + 1) // 2 if len(middle) > count else 0
    return {"best": best, "median": middle[start : start + count], "worst": worst}


def collect(predictor: Predicts, reader: Records, scores: Sequence[float | None], count: int) -> Iterator[Case]:
    """The cases, by the images' scores. They are predicted again: which ones they are is known at the end only, and
    the predictions of a whole split do not fit in memory."""
    for kind, indices in select(scores, count).items():
        for index in indices:
            record = reader[index]
            image = decode(record)
            prediction = predictor.predict([image])[0]
            yield Case(kind=kind, record=record, image=image, prediction=prediction, score=scores[index] or 0.0)


def views(case: Case, classes: Sequence[ClassInfo], *, largest: int) -> dict[str, View]:
    """The views that the prediction holds, the task's own first."""
    record, prediction = case.record, case.prediction
    size = pictures.display_size(record.height, record.width, largest=largest)
    image = pictures.fit(case.image, size)
    shown: dict[str, View] = {}
    if prediction.panoptic is not None:
        things = tuple(i for i, c in enumerate(classes) if c.isthing)
        shown["panoptic"] = _panoptic(image, panoptic.truth(record, things), prediction.panoptic, classes)
    if prediction.semantic is not None:
        errors = pictures.semantic_errors(record.semantic, prediction.semantic)
        shown["semantic"] = View(
            truth=pictures.colorize(pictures.fit_map(record.semantic, size), classes),
            prediction=pictures.colorize(pictures.fit_map(prediction.semantic, size), classes),
            errors=pictures.paint_errors(image, pictures.fit_map(errors, size)),
        )
    if prediction.instances is not None:
        # The things of a panoptic map are decided on; a detector's list has a tail that AP counts and nobody wants.
        least = 0.0 if prediction.panoptic is not None else CONFIDENT
        shown["instance"] = _instances(image, record, _confident(prediction.instances, least), classes)
    return shown


def sheet(shown: Sequence[Case], classes: Sequence[ClassInfo]) -> np.ndarray:
    """One picture of the first of each kind, in the task's own view: what a README or `dvc plots` shows."""
    rows = []
    for case in {c.kind: c for c in reversed(shown)}.values():
        view = next(iter(views(case, classes, largest=256).values()))
        rows.append([pictures.fit(case.image, view.truth.shape[:2]), view.truth, view.prediction, view.errors])
    return pictures.contact_sheet(rows[::-1], ("image", "truth", "prediction", "errors"))


def _panoptic(image: np.ndarray, truth: Panoptic, predicted: Panoptic, classes: Sequence[ClassInfo]) -> View:
    true_masks, masks = _masks(truth), _masks(predicted)
    unknown = truth.ids == 0
    matches = match(true_masks, truth.labels, masks, predicted.labels, iscrowd=truth.iscrowd, unknown=unknown)
    unknown = unknown | true_masks[truth.iscrowd].any(axis=0)
    errors = pictures.segment_errors(true_masks, masks, matches, unknown)
    size = image.shape[:2]
    return View(
        truth=pictures.panoptic(_fit(truth, size), classes),
        prediction=pictures.panoptic(_fit(predicted, size), classes),
        errors=pictures.paint_errors(image, pictures.fit_map(errors, size)),
    )


def _instances(image: np.ndarray, record: Record, found: Instances, classes: Sequence[ClassInfo]) -> View:
    shape, segments = (record.height, record.width), record.segments
    masks = np.array([rle.decode(s.counts, *shape) for s in segments], bool).reshape(-1, *shape)
    labels = np.array([s.category for s in segments], np.int64)
    iscrowd = np.array([s.iscrowd for s in segments], bool)
    # AP knows no ignored pixels, only crowds.
    matches = match(masks, labels, found.masks, found.labels, iscrowd=iscrowd, unknown=np.zeros(shape, bool))
    errors = pictures.segment_errors(masks, found.masks, matches, masks[iscrowd].any(axis=0))
    names = [f"{classes[k].name}{' crowd' if crowd else ''}" for k, crowd in zip(labels, iscrowd, strict=True)]
    scored = [f"{classes[k].name} {s:.2f}" for k, s in zip(found.labels, found.scores, strict=True)]

    def drawn(masks: np.ndarray, labels: np.ndarray, iscrowd: np.ndarray | None = None) -> np.ndarray:
        large = pictures.fit_map(masks.transpose(1, 2, 0), image.shape[:2]).transpose(2, 0, 1)
        return pictures.instances(image, large, labels, classes, iscrowd=iscrowd)

    return View(
        truth=drawn(masks, labels, iscrowd),
        prediction=drawn(found.masks, found.labels),
        errors=pictures.paint_errors(image, pictures.fit_map(errors, image.shape[:2])),
        truth_labels=_labels(masks, names),
        prediction_labels=_labels(found.masks, scored),
    )


def _confident(found: Instances, least_score: float) -> Instances:
    order = np.argsort(-found.scores, kind="stable")
    keep = order[found.scores[order] >= least_score]
    return Instances(
        masks=found.masks[keep], labels=found.labels[keep], scores=found.scores[keep], boxes=found.boxes[keep]
    )


def _masks(view: Panoptic) -> np.ndarray:
    """bool[n, h, w]"""
    return np.asarray(view.ids == np.arange(1, len(view.labels) + 1)[:, None, None])


def _fit(view: Panoptic, size: tuple[int, int]) -> Panoptic:
    return Panoptic(ids=pictures.fit_map(view.ids, size), labels=view.labels, iscrowd=view.iscrowd)


def _labels(masks: np.ndarray, texts: Sequence[str]) -> tuple[Label, ...]:
    """Each text at its mask's middle; an empty mask has none."""
    labels = []
    for mask, text in zip(masks, texts, strict=True):
        rows, cols = np.nonzero(mask)
        if rows.size:
            x, y = (cols.mean() + 0.5) / mask.shape[1], (rows.mean() + 0.5) / mask.shape[0]
            labels.append(Label(x=round(float(x), 3), y=round(float(y), 3), text=text))
    return tuple(labels)
