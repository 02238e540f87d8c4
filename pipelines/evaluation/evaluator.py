"""One evaluator for all tasks: the metrics that a task gives, and the pass over a split that fills them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np

from pipelines.config import HEADLINE
from pipelines.data import panoptic
from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo, Record
from pipelines.evaluation import counting
from pipelines.loading.batch import decode
from pipelines.metrics import (
    bootstrap,
    boundary,
    detection_calibration,
    resampled_ap,
    segment_failures,
    semantic,
)
from pipelines.metrics import panoptic as quality
from pipelines.metrics.boundary import BoundaryMetrics
from pipelines.metrics.calibration import CalibrationMetrics
from pipelines.metrics.instance import CONFIDENT, InstanceMetrics
from pipelines.metrics.panoptic import PanopticMetrics
from pipelines.metrics.pixel_failures import PixelFailures
from pipelines.metrics.segment_failures import SegmentFailures
from pipelines.metrics.semantic import SemanticMetrics
from pipelines.progress import Progress

# The views of a scene that a task's predictions hold, the task's own first.
VIEWS = {"semantic": ("semantic",), "instance": ("instance",), "panoptic": ("panoptic", "semantic", "instance")}

View = TypeVar("View")
OnImage = Callable[[int, Record, float | None], None]


class Records(Protocol):
    """What is asked of a dataset: a `ShardReader` is one, a list is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Record: ...


class Predicts(Protocol):
    """What is asked of a model: `pipelines.inference.Predictor` is one."""

    @property
    def task(self) -> str: ...
    @property
    def classes(self) -> tuple[ClassInfo, ...]: ...
    def predict(self, images: list[np.ndarray], /) -> list[Prediction]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Detail:
    """What an evaluation measures and the validation of each epoch does not: it takes time, or memory per image."""

    boundary: float  # boundary F1's tolerance, a fraction of the image's diagonal
    edge: float  # the width of a mask's edge for boundary AP, likewise; 0 leaves it out
    resamples: int  # of the images, for confidence intervals; 0 gives none
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    index: int
    record: Record
    prediction: Prediction


class Evaluator:
    """Metrics of the views that `task` gives, `None` for the others; with `detail` also boundaries,
    calibration, failures in the task's own view, and each image's own sums."""

    def __init__(self, *, task: str, classes: Sequence[ClassInfo], detail: Detail | None = None):
        self.task, self.classes, self.detail = task, tuple(classes), detail
        self.things = tuple(i for i, c in enumerate(classes) if c.isthing)
        names, views = tuple(c.name for c in classes), VIEWS[task]
        self.semantic = SemanticMetrics(names) if "semantic" in views else None
        # What a panoptic map holds is decided on, whatever its score.
        options = {"boundary": detail.edge if detail else 0.0, "confident": 0.0 if "panoptic" in views else CONFIDENT}
        self.instance = InstanceMetrics(names, things=self.things, **options) if "instance" in views else None
        self.panoptic = PanopticMetrics(names, things=self.things) if "panoptic" in views else None
        detailed = detail if "semantic" in views else None
        self.boundary = BoundaryMetrics(names, tolerance=detailed.boundary) if detailed else None
        self.calibration = CalibrationMetrics() if detailed else None
        self.failures: SegmentFailures | PixelFailures | None = None
        if detail:
            self.failures = PixelFailures(names) if task == "semantic" else SegmentFailures(names)
        # What each image has added to the metrics that are functions of sums: what resamples are made of.
        self.images: dict[str, list[np.ndarray]] = {name: [] for name in self._totals()}
        self.count = 0

    def update(self, record: Record, prediction: Prediction) -> None:
        before = self._totals()
        if self.semantic is not None:
            labels = _given(prediction.semantic, "semantic")
            self.semantic.update(record.semantic, labels)
            if self.boundary is not None:
                self.boundary.update(record.semantic, labels)
            if self.calibration is not None and prediction.confidence is not None:
                self.calibration.update(record.semantic, labels, prediction.confidence)
        if self.instance is not None:
            size = (record.height, record.width)
            self.instance.update(record.segments, size, _given(prediction.instances, "instance"))
        if self.panoptic is not None:
            truth = panoptic.truth(record, self.things)
            self.panoptic.update(truth, _given(prediction.panoptic, "panoptic"))
            if isinstance(self.failures, SegmentFailures):
                self.failures.update(segment_failures.of_panoptic(truth, _given(prediction.panoptic, "panoptic")))
        elif isinstance(self.failures, SegmentFailures):
            found = _given(prediction.instances, "instance")
            self.failures.update(segment_failures.of_instances(record.segments, found, confident=CONFIDENT))
        if isinstance(self.failures, PixelFailures):
            self.failures.update(record.semantic, _given(prediction.semantic, "semantic"))
        self.count += 1
        for name, totals in self._totals().items():
            self.images[name].append(totals - before[name])

    def merge(self, other: "Evaluator") -> None:
        """Take in what another one has seen after this one."""
        for mine, theirs in zip(self._accumulators(), other._accumulators(), strict=True):
            mine.merge(theirs)
        self.count += other.count
        for name, images in other.images.items():
            self.images[name] += images

    def compute(self) -> dict[str, dict[str, Any]]:
        """{"semantic": {"miou": ...}, "instance": {"ap": ...}, "panoptic": {"pq": ...}}: those that the task gives."""
        found = {view: metrics.compute() for view, metrics in self._held().items() if metrics is not None}
        for more in (self.boundary, self.calibration):
            if more is not None:
                found["semantic"] |= more.compute()
        if self.instance is not None and self.detail is not None:
            found["instance"] |= detection_calibration.counts(self.instance).compute()
        if isinstance(self.failures, SegmentFailures):
            found[self.task]["errors"] = self.failures.compute()
        for view, intervals in self._intervals().items():
            found[view]["intervals"] = intervals
        return found

    def headline(self) -> float | None:
        """The task's own metric; None where it is undefined, as the AP of images without a thing."""
        metrics = self._held()[self.task]
        return None if metrics is None else metrics.compute()[HEADLINE[self.task]]

    def _held(self) -> dict[str, SemanticMetrics | InstanceMetrics | PanopticMetrics | None]:
        return {"semantic": self.semantic, "instance": self.instance, "panoptic": self.panoptic}

    def _accumulators(self) -> list[Any]:
        return [m for m in (*self._held().values(), self.boundary, self.calibration, self.failures) if m is not None]

    def _totals(self) -> dict[str, np.ndarray]:
        """By metric, the sums over all images so far."""
        metrics = {"semantic": self.semantic, "boundary": self.boundary, "panoptic": self.panoptic}
        return {name: m.totals for name, m in metrics.items() if m is not None} if self.detail else {}

    def _intervals(self) -> dict[str, dict[str, Any]]:
        """By view, [low, high] of each score that resamples were made of: all but the calibration's, and of AP that by
        size, and recall.

        One image alone says nothing of how others would differ.
        """
        found: dict[str, dict[str, Any]] = {}
        if self.detail is None or not self.detail.resamples or self.count < 2:
            return found
        draws = {"resamples": self.detail.resamples, "seed": self.detail.seed}
        scores: dict[str, tuple[str, bootstrap.Scores]] = {
            "semantic": ("semantic", semantic.scores),
            "boundary": ("semantic", boundary.scores),
            "panoptic": ("panoptic", partial(quality.scores, things=self.things)),
        }
        for name, images in self.images.items():
            view, function = scores[name]
            replicates = bootstrap.replicates(np.stack(images), function, **draws)
            found.setdefault(view, {}).update(self._ends(replicates))
        if self.instance is not None:
            ends = {v: self._ends(resampled_ap.replicates(self.instance, v, **draws)) for v in self.instance.views}
            found["instance"] = {**ends.pop("segm"), **ends}
        return found

    def _ends(self, replicates: Mapping[str, np.ndarray]) -> dict[str, Any]:
        return {score: self._named(bootstrap.interval(values)) for score, values in replicates.items()}

    def _named(self, interval: np.ndarray) -> Any:
        """[2] -> [low, high]; [classes, 2] -> the same by class; None where there is none."""
        if interval.ndim > 1:
            return {c.name: self._named(row) for c, row in zip(self.classes, interval, strict=True)}
        return None if np.isnan(interval[0]) else interval.tolist()


def score(
    predictor: Predicts,
    reader: Records,
    *,
    batch_size: int,
    indices: Iterable[int] | None = None,
    detail: Detail | None = None,
    workers: int = 0,
    progress: Progress | None = None,
    on_image: OnImage | None = None,
) -> Evaluator:
    """Predict the records (of all, or of some `indices`) and hold them against the truth; `workers` threads count while
    the next batch is predicted, 0 count in between. Of two batches at most the predictions are in memory.

    `on_image` is told each image's index, record, and headline metric on its own.
    """
    empty = partial(Evaluator, task=predictor.task, classes=predictor.classes, detail=detail)

    def count(image: Predicted) -> tuple[Evaluator, float | None]:
        alone = empty()
        alone.update(image.record, image.prediction)
        return alone, alone.headline() if on_image is not None else None

    evaluator = empty()
    images = _predicted(predictor, reader, range(len(reader)) if indices is None else indices, batch_size)
    with closing(counting.ordered(count, images, workers=workers, ahead=batch_size)) as counted:
        for done, (image, (alone, value)) in enumerate(counted, start=1):
            evaluator.merge(alone)
            if on_image is not None:
                on_image(image.index, image.record, value)
            if progress is not None:
                progress.update(done)
    return evaluator


def evaluate(
    predictor: Predicts, reader: Records, *, batch_size: int, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """The metrics of a model on a split."""
    return score(predictor, reader, batch_size=batch_size, progress=progress).compute()


def _predicted(predictor: Predicts, reader: Records, indices: Iterable[int], batch_size: int) -> Iterator[Predicted]:
    for batch in _batches(reader, indices, batch_size):
        predictions = predictor.predict([decode(record) for _, record in batch])
        for (index, record), prediction in zip(batch, predictions, strict=True):
            yield Predicted(index=index, record=record, prediction=prediction)


def _batches(reader: Records, indices: Iterable[int], size: int) -> Iterator[list[tuple[int, Record]]]:
    """Consecutive records of one height and width: padding to a batch's largest image would make a prediction depend
    on its neighbours, and a score on the batch size."""
    batch: list[tuple[int, Record]] = []
    for index in indices:
        record = reader[index]
        shape = batch[0][1].semantic.shape if batch else record.semantic.shape
        if len(batch) == size or record.semantic.shape != shape:
            yield batch
            batch = []
        batch.append((index, record))
    if batch:
        yield batch


def _given(view: View | None, name: str) -> View:
    if view is None:
        raise ValueError(f"the model gave no {name} view, which its task promises")
    return view
