"""A side of a comparison, from a model's package and what was kept of its evaluation."""

from collections.abc import Callable, Mapping
from typing import Any

from pipelines.errors import MasklineError
from pipelines.evaluation.evaluator import Records
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import cost
from pipelines.inference.predictor import Predictor
from pipelines.loading.batch import decode
from pipelines.reporting.comparison import Side


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
