"""The report's section of failures: how many of each kind, class and size, and a wall of crops to look through."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.data.schema import ClassInfo
from pipelines.metrics import sizes
from pipelines.metrics.pixel_failures import PixelFailures
from pipelines.metrics.segment_failures import KINDS, SegmentFailures
from pipelines.reporting import charts, encoding, pictures
from pipelines.reporting.content import Failures
from pipelines.reporting.failures import SEGMENT_KINDS, Failure

CROP_BYTES = 900_000  # of all crops together
QUALITY = 72
WORST = 12  # classes whose wrong pixels are drawn


def section(failures: Failures, shown: Sequence[Failure], classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """What the template draws."""
    kinds, table = _kind_names(failures, classes), _table(failures, classes)
    named = {i for failure in shown for i in _classes_of(failure)} | {i for i, _, _ in table}
    return {
        "of_pixels": isinstance(failures, PixelFailures),
        "kinds": kinds,
        "meanings": {} if isinstance(failures, PixelFailures) else dict(SEGMENT_KINDS.values()),
        "table": table,
        "total": len(failures.rows()[0]),
        "charts": drawn(failures, classes),
        "sizes": {name: (str(i), str(i)) for i, name in enumerate(sizes.NAMES)},
        "coco": {name: " ".join(str(i) for i in range(first, last + 1)) for name, (first, last) in sizes.COCO.items()},
        "size_names": sizes.NAMES,
        "classes": [(i, classes[i]) for i in sorted(named)],
        "cards": _cards(shown, classes, kinds),
        "truth": pictures.TRUTH,
        "prediction": pictures.PREDICTION,
    }


def drawn(failures: Failures, classes: Sequence[ClassInfo]) -> dict[str, Markup]:
    """The charts, by name: what the page and `dvc plots` show."""
    found = {}
    if isinstance(failures, SegmentFailures):
        counts = [(SEGMENT_KINDS[kind][0], count) for kind, count in failures.compute().items()]
        title, unit, truths, judged = "Failures by kind", "failures", "truths", "predictions"
    else:
        rows, _ = failures.rows()
        wrong = np.bincount(rows["truth_label"], rows["pixels"], minlength=len(classes)).astype(np.int64)
        worst = np.argsort(-wrong, kind="stable")[:WORST]
        counts = [(classes[i].name, int(wrong[i])) for i in worst.tolist() if wrong[i]]
        title, unit, truths, judged = "Wrong pixels by true class", "wrong pixels", "regions", "pixels"
    if counts:
        found["error_types"] = charts.bars(counts, title=title, unit=unit)
    columns = failures.by_size.sum(axis=0).T.tolist()
    if any(columns[0]):
        found["score_by_size"] = charts.columns(
            sizes.NAMES,
            {f"found, of the {truths}": _shares(*columns[1::-1]), f"right, of the {judged}": _shares(*columns[:1:-1])},
            columns[0],
            groups=sizes.COCO,
            title="Score by size",
            x="pixels across",
        )
    return found


def _shares(part: Sequence[int], whole: Sequence[int]) -> list[float | None]:
    return [a / b if b else None for a, b in zip(part, whole, strict=True)]


def _kind_names(failures: Failures, classes: Sequence[ClassInfo]) -> dict[str, str]:
    """Of pixels the kind is the class that they were taken for."""
    if isinstance(failures, SegmentFailures):
        return {key: name for key, (name, _) in SEGMENT_KINDS.items()}
    labels = np.unique(failures.rows()[0]["label"]).tolist()
    return {f"as{label}": classes[label].name for label in labels}


def _table(failures: Failures, classes: Sequence[ClassInfo]) -> list[tuple[int, ClassInfo, list[tuple[str, int]]]]:
    """By class, the truth's where there is one, how many failures of each kind; none for pixels, whose confusion matrix
    says it."""
    if isinstance(failures, PixelFailures):
        return []
    rows, _ = failures.rows()
    labels = np.where(rows["truth_label"] >= 0, rows["truth_label"], rows["label"])
    counts = np.zeros((len(classes), len(KINDS)), np.int64)
    np.add.at(counts, (labels, rows["kind"]), 1)
    order = np.argsort(-counts.sum(axis=1), kind="stable").tolist()
    return [(i, classes[i], list(zip(KINDS, counts[i].tolist(), strict=True))) for i in order if counts[i].any()]


def _cards(shown: Sequence[Failure], classes: Sequence[ClassInfo], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Until the page is full."""
    cards, room = [], CROP_BYTES
    for failure in shown:
        uri = encoding.data_uri(failure.crop, quality=QUALITY)
        if (room := room - len(uri)) < 0:
            break
        kind = f"as{failure.predicted}" if failure.kind == "confused" else failure.kind
        cards.append(
            {
                "uri": uri,
                "size": failure.crop.shape[:2],
                "kind": kind,
                "classes": _classes_of(failure),
                "bin": failure.size,
                "title": "" if failure.kind == "confused" else kinds[kind],
                "what": _said(failure, classes),
                "notes": _notes(failure),
                "image": failure.image,
            }
        )
    return cards


def _classes_of(failure: Failure) -> list[int]:
    """By which it is found: of segments both, of pixels the true one, since the other is their kind."""
    named = (failure.truth,) if failure.kind == "confused" else (failure.truth, failure.predicted)
    return sorted({c for c in named if c is not None})


def _said(failure: Failure, classes: Sequence[ClassInfo]) -> str:
    truth, predicted = (None if c is None else classes[c].name for c in (failure.truth, failure.predicted))
    if truth is None or predicted is None or truth == predicted:
        return predicted or truth or ""
    return f"{truth} → {predicted}"


def _notes(failure: Failure) -> str:
    size = f"{failure.area:,} px" if failure.kind == "confused" else f"{round(failure.area**0.5)} px across"
    iou = "" if failure.iou is None else f"IoU {failure.iou:.2f}"
    score = "" if failure.score is None else f"score {failure.score:.2f}"
    return ", ".join(filter(None, (size, iou, score)))
