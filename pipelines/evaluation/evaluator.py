"""One evaluator for all tasks: the metrics that a task gives, and the pass over a split that fills them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from pipelines.config import HEADLINE
from pipelines.data import panoptic
from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo, Record
from pipelines.loading.batch import decode
from pipelines.metrics.instance import InstanceMetrics
from pipelines.metrics.panoptic import PanopticMetrics
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


class Evaluator:
    """Metrics of the views that `task` gives; `None` for the others."""

    def __init__(self, *, task: str, classes: Sequence[ClassInfo]):
        self.task, self.classes = task, tuple(classes)
        self.things = tuple(i for i, c in enumerate(classes) if c.isthing)
        names, views = tuple(c.name for c in classes), VIEWS[task]
        self.semantic = SemanticMetrics(names) if "semantic" in views else None
        self.instance = InstanceMetrics(names, things=self.things) if "instance" in views else None
        self.panoptic = PanopticMetrics(names, things=self.things) if "panoptic" in views else None

    def update(self, record: Record, prediction: Prediction) -> None:
        if self.semantic is not None:
            self.semantic.update(record.semantic, _given(prediction.semantic, "semantic"))
        if self.instance is not None:
            size = (record.height, record.width)
            self.instance.update(record.segments, size, _given(prediction.instances, "instance"))
        if self.panoptic is not None:
            self.panoptic.update(panoptic.truth(record, self.things), _given(prediction.panoptic, "panoptic"))

    def merge(self, other: "Evaluator") -> None:
        """Take in what another one has seen after this one."""
        if self.semantic is not None and other.semantic is not None:
            self.semantic.merge(other.semantic)
        if self.instance is not None and other.instance is not None:
            self.instance.merge(other.instance)
        if self.panoptic is not None and other.panoptic is not None:
            self.panoptic.merge(other.panoptic)

    def compute(self) -> dict[str, dict[str, Any]]:
        """{"semantic": {"miou": ...}, "instance": {"ap": ...}, "panoptic": {"pq": ...}}: those that the task gives."""
        return {view: metrics.compute() for view, metrics in self._held().items() if metrics is not None}

    def headline(self) -> float | None:
        """The task's own metric; None where it is undefined, as the AP of images without a thing."""
        metrics = self._held()[self.task]
        return None if metrics is None else metrics.compute()[HEADLINE[self.task]]

    def _held(self) -> dict[str, SemanticMetrics | InstanceMetrics | PanopticMetrics | None]:
        return {"semantic": self.semantic, "instance": self.instance, "panoptic": self.panoptic}


def score(
    predictor: Predicts,
    reader: Records,
    *,
    batch_size: int,
    indices: Iterable[int] | None = None,
    progress: Progress | None = None,
    on_image: OnImage | None = None,
) -> Evaluator:
    """Predict the records (of all, or of some `indices`) and hold them against the truth.

    `on_image` is told each image's index, record, and headline metric on its own.
    """
    evaluator = Evaluator(task=predictor.task, classes=predictor.classes)
    done = 0
    for batch in _batches(reader, range(len(reader)) if indices is None else indices, batch_size):
        predictions = predictor.predict([decode(record) for _, record in batch])
        for (index, record), prediction in zip(batch, predictions, strict=True):
            alone = Evaluator(task=predictor.task, classes=predictor.classes)
            alone.update(record, prediction)
            evaluator.merge(alone)
            if on_image is not None:
                on_image(index, record, alone.headline())
        done += len(batch)
        if progress is not None:
            progress.update(done)
    return evaluator


def evaluate(
    predictor: Predicts, reader: Records, *, batch_size: int, progress: Progress | None = None
) -> dict[str, dict[str, Any]]:
    """The metrics of a model on a split."""
    return score(predictor, reader, batch_size=batch_size, progress=progress).compute()


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
