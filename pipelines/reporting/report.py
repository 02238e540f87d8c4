"""report.html: one file that needs no network, for people."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from pipelines import templates
from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.evaluation.evaluator import VIEWS
from pipelines.metrics.instance import CONFIDENT
from pipelines.reporting import browsing, charts, encoding, figures, pictures
from pipelines.reporting.cases import Case, views
from pipelines.reporting.content import CARDS, COSTS, PER_CLASS, Evaluation

PICTURE_BYTES = 2_000_000  # of all pictures together; text and charts are a few hundred kB
SIDES = (512, 384, 256, 128, 64)  # pixels of a picture's longer side, the first that fits


def render(evaluation: Evaluation) -> str:
    """The page. It holds no time and no path: the same evaluation gives the same bytes."""
    environment = templates.beside(__file__)
    environment.filters["number"] = charts.number
    shown = VIEWS[evaluation.task]
    return environment.get_template("report.html.jinja").render(
        e=evaluation,
        headline=CARDS[evaluation.task][0],
        views={view: CARDS[view][1] for view in shown},
        cards=[(*CARDS[view][:3], HEADLINE[view], CARDS[view][3], evaluation.metrics[view]) for view in shown],
        class_columns=[title for view in shown for title, _ in PER_CLASS[view]],
        class_rows=_class_rows(evaluation),
        intervals=any("intervals" in evaluation.metrics[view] for view in shown),
        verdicts=pictures.VERDICTS,
        hatch=pictures.HATCH,
        scores=figures.scores(evaluation),
        cases=pictures_within(evaluation.cases, evaluation.classes),
        confusions=_confusions(evaluation),
        confident=CONFIDENT,
        charts=figures.charts_of(evaluation),
        costs=COSTS,
        failures=None
        if evaluation.failures is None
        else browsing.section(evaluation.failures, evaluation.failures_shown, evaluation.classes),
    )


def _class_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """One per class, the best first by the task's own metric; classes without a value last."""
    columns = [(evaluation.metrics[view], key) for view in VIEWS[evaluation.task] for _, key in PER_CLASS[view]]
    pixels = None if evaluation.confusion is None else evaluation.confusion.sum(axis=1)
    rows = []
    for i, info in enumerate(evaluation.classes):
        values = [metrics.get(key, {}).get(info.name) for metrics, key in columns]
        intervals = [metrics.get("intervals", {}).get(key, {}).get(info.name) for metrics, key in columns]
        share = None if pixels is None else int(pixels[i]) / max(int(pixels.sum()), 1)
        rows.append({"info": info, "values": list(zip(values, intervals, strict=True)), "share": share})
    return sorted(rows, key=lambda row: -1.0 if row["values"][0][0] is None else row["values"][0][0], reverse=True)


def _confusions(evaluation: Evaluation, limit: int = 6) -> list[tuple[str, str, float]]:
    """The pairs of classes (true, predicted, share of the true one's pixels) that are mixed up most."""
    if evaluation.confusion is None:
        return []
    shares = evaluation.confusion / np.maximum(evaluation.confusion.sum(axis=1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    names = [c.name for c in evaluation.classes]
    worst = np.argsort(-shares, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(k), len(names)) for k in worst]
    return [(names[i], names[j], float(shares[i, j])) for i, j in pairs if shares[i, j] >= 0.005]


def pictures_within(shown: Sequence[Case], classes: Sequence[ClassInfo]) -> dict[str, list[dict[str, Any]]]:
    """The cases by kind, encoded; as large as PICTURE_BYTES allows."""
    for largest in SIDES:
        encoded = [_case(case, classes, largest) for case in shown]
        if sum(case["bytes"] for case in encoded) <= PICTURE_BYTES:
            break
    return {kind: list(group) for kind, group in groupby(encoded, key=itemgetter("kind"))}


def _case(case: Case, classes: Sequence[ClassInfo], largest: int) -> dict[str, Any]:
    record = case.record
    size = pictures.display_size(record.height, record.width, largest=largest)
    image = encoding.data_uri(pictures.fit(case.image, size))
    shown = {
        view: {
            "truth": (encoding.data_uri(v.truth), v.truth_labels),
            "prediction": (encoding.data_uri(v.prediction), v.prediction_labels),
            "errors": (encoding.data_uri(v.errors), ()),
        }
        for view, v in views(case, classes, largest=largest).items()
    }
    return {
        "kind": case.kind,
        "id": record.id,
        "score": case.score,
        "size": size,
        "enlarged": size[0] > record.height,
        "image": image,
        "views": shown,
        "bytes": len(image) + sum(len(uri) for view in shown.values() for uri, _ in view.values()),
    }
