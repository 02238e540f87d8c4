"""Small drawn scenes, and a model that has learned its predictions by heart."""

from collections.abc import Sequence

import numpy as np
import pytest

from pipelines.data import panoptic, rle
from pipelines.data.formats import shapes
from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.data.schema import IGNORE, ClassInfo, Record
from pipelines.loading.batch import decode

SIZES = [(64, 64), (64, 64), (48, 64), (48, 64), (48, 64), (64, 48), (64, 64)]


class Memory:
    """Knows each image's prediction by the image's pixels; notes the sizes that it is asked for together."""

    def __init__(self, task: str, classes: tuple[ClassInfo, ...], records: Sequence[Record], answers: list[Prediction]):
        self.task, self.classes = task, classes
        self.answers = {decode(r).tobytes(): a for r, a in zip(records, answers, strict=True)}
        self.batches: list[list[tuple[int, ...]]] = []

    def predict(self, images: list[np.ndarray]) -> list[Prediction]:
        self.batches.append([image.shape for image in images])
        return [self.answers[image.tobytes()] for image in images]


def prediction(record: Record, classes: Sequence[ClassInfo], *, shift: int, task: str = "panoptic") -> Prediction:
    """The truth moved to the right, with its void as the first class and its crowds as if they were one thing."""
    things = tuple(i for i, c in enumerate(classes) if c.isthing)
    truth = panoptic.truth(record, things)
    ids = np.roll(truth.ids, shift, axis=1)
    whole = Panoptic(ids=ids, labels=truth.labels, iscrowd=np.zeros(len(truth.labels), bool))
    semantic = np.roll(np.where(record.semantic == IGNORE, 0, record.semantic), shift, axis=1)
    rows = [k for k, label in enumerate(truth.labels.tolist()) if label in things and (ids == k + 1).any()]
    masks = np.array([ids == k + 1 for k in rows], bool).reshape(-1, *ids.shape)
    boxes = np.array([rle.bbox(m) for m in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = np.linspace(0.9, 0.6, len(rows), dtype=np.float32)
    found = Instances(masks=masks, labels=truth.labels[rows], scores=scores, boxes=boxes)
    return {
        "semantic": Prediction(semantic=semantic, confidence=_confidence(record)),
        "instance": Prediction(instances=found),
        "panoptic": Prediction(semantic=semantic, instances=found, panoptic=whole),
    }[task]


def _confidence(record: Record) -> np.ndarray:
    """Surer to the right; no two images alike."""
    return np.tile(np.linspace(record.height / 200, 0.9, record.width, dtype=np.float32), (record.height, 1))


@pytest.fixture(scope="session")
def classes() -> tuple[ClassInfo, ...]:
    return shapes.classes()


@pytest.fixture(scope="session")
def records() -> list[Record]:
    return [shapes.draw("test", i, seed=3, height=h, width=w, difficulty=0.5) for i, (h, w) in enumerate(SIZES)]


@pytest.fixture(scope="session")
def learned(classes, records):
    """learned(task) -> a model whose predictions get worse from image to image."""

    def make(task: str) -> Memory:
        answers = [prediction(r, classes, shift=i, task=task) for i, r in enumerate(records)]
        return Memory(task, classes, records, answers)

    return make
