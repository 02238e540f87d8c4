"""A side of a comparison, from a model's package and what was kept of its evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipelines.data.prediction import Prediction
from pipelines.errors import MasklineError
from pipelines.evaluation.evaluator import Records
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import cost
from pipelines.inference.predictor import Predictor
from pipelines.loading.batch import decode


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two models."""

    name: str  # "version 3"
    metrics: Mapping[str, Mapping[str, Any]]  # by view, as metrics.json has them
    images: PerImage
    predict: Callable[[list[np.ndarray]], list[Prediction]] | None = None  # without it there are no pictures
    cost: Mapping[str, Any] = field(default_factory=dict)  # as cost.json has it; empty where it is not known
    identity: Mapping[str, str] = field(default_factory=dict)


def measure(
    name: str,
    *,
    metrics: Mapping[str, Any],
    images: PerImage,
    load: Callable[[], Predictor],
    reader: Records | None,
    batch_size: int,
    identity: Mapping[str, str],
) -> Side:
    """Its cost is measured here and now, as the other side's is. Without images, or where the package cannot be loaded
    any more, the numbers are known all the same, and neither a cost nor a picture is to be had."""
    known = Side(name=name, metrics=metrics, images=images, identity=identity)
    if reader is None:
        return known
    try:
        predictor = load()
    except MasklineError:
        return known
    some = (decode(reader[i]) for i in cost.some(len(reader)))
    spent = cost.of(predictor, some, batch_size=batch_size).summary()
    return Side(name=name, metrics=metrics, images=images, predict=predictor.predict, cost=spent, identity=identity)
