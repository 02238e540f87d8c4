"""The images where two models differ most, in both directions, as pictures."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError
from pipelines.evaluation.evaluator import Records
from pipelines.loading.batch import decode
from pipelines.reporting import encoding, pictures
from pipelines.reporting.cases import Case, View, views
from pipelines.reporting.sides import Side

PICTURE_BYTES = 1_500_000  # of all pictures together
SIDES = (384, 256, 192, 128, 64)  # pixels of a picture's longer side, the first that fits
Scored = tuple[str, float | None, float | None]  # an image, and what each of the two scores on it


def collect(
    first: Side,
    second: Side,
    reader: Records | None,
    classes: Sequence[ClassInfo],
    scored: Sequence[Scored],
    cases: int,
) -> list[tuple[str, list[dict[str, Any]]]]:
    """The images where they differ most, in both directions; as large as PICTURE_BYTES allows."""
    if reader is None or first.predict is None or second.predict is None:
        return []
    changes = [change(scores) for scores in scored]
    order = sorted((i for i, by in enumerate(changes) if by), key=lambda i: changes[i] or 0.0)
    better = [i for i in reversed(order[-cases:]) if (changes[i] or 0.0) > 0] if cases else []
    worse = [i for i in order[:cases] if (changes[i] or 0.0) < 0]
    found = {
        i: [_case(side, reader, i, score) for side, score in zip((first, second), scored[i][1:], strict=True)]
        for i in better + worse
    }
    for largest in SIDES:
        encoded = {i: _encoded(one, other, classes, largest) for i, (one, other) in found.items()}
        if sum(case["bytes"] for case in encoded.values()) <= PICTURE_BYTES:
            break
    groups = [(f"{second.name} is better", better), (f"{first.name} is better", worse)]
    return [(title, [encoded[i] for i in those]) for title, those in groups if those]


def _case(side: Side, reader: Records, index: int, score: float | None) -> Case:
    record, wanted = reader[index], side.images.ids[index]
    if record.id != wanted or side.predict is None:
        raise DataError(f"image {index} is {record.id}, and was {wanted} when {side.name} was measured")
    image = decode(record)
    return Case(kind="", record=record, image=image, prediction=side.predict([image])[0], score=score or 0.0)


def _encoded(one: Case, other: Case, classes: Sequence[ClassInfo], largest: int) -> dict[str, Any]:
    record = one.record
    size = pictures.display_size(record.height, record.width, largest=largest)
    shown = dict(_figures(one.image, _own(one, classes, largest), _own(other, classes, largest), size))
    return {
        "id": record.id,
        "first": one.score,
        "second": other.score,
        "change": other.score - one.score,
        "size": size,
        "enlarged": size[0] > record.height,
        "figures": shown,
        "bytes": sum(len(uri) for uri, _ in shown.values()),
    }


def _own(case: Case, classes: Sequence[ClassInfo], largest: int) -> View:
    """The task's own view."""
    return next(iter(views(case, classes, largest=largest).values()))


def _figures(image: np.ndarray, one: View, other: View, size: tuple[int, int]) -> Iterator[tuple[str, Any]]:
    yield "image", (encoding.data_uri(pictures.fit(image, size)), ())
    yield "first", (encoding.data_uri(one.prediction), one.prediction_labels)
    yield "second", (encoding.data_uri(other.prediction), other.prediction_labels)
    yield "truth", (encoding.data_uri(one.truth), one.truth_labels)
    yield "first errors", (encoding.data_uri(one.errors), ())
    yield "second errors", (encoding.data_uri(other.errors), ())


def change(scores: Scored) -> float | None:
    _, first, second = scores
    return None if first is None or second is None else second - first
