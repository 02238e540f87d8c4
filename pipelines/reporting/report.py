"""report.html: one file that needs no network, for people."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import cv2
import numpy as np

from pipelines import templates
from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.evaluation.evaluator import VIEWS
from pipelines.metrics.calibration import Bin
from pipelines.metrics.instance import CONFIDENT
from pipelines.reporting import charts, pictures
from pipelines.reporting.cases import Case, views
from pipelines.reporting.plots import mean_curve

Curve = Sequence[float] | None  # precision at recall 0, 0.01 .. 1
RECALLS = np.linspace(0, 1, 101).round(2).tolist()
PICTURE_BYTES = 2_000_000  # of all pictures together; text and charts are a few hundred kB
SIDES = (512, 384, 256, 128, 64)  # pixels of a picture's longer side, the first that fits
FLAT_COLORS = 256

# view -> what a card shows: the headline, what it means, and its family
CARDS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    "panoptic": (
        "PQ",
        "Panoptic quality",
        "segments found, and how well they fit: every pixel belongs to one",
        {"sq": "SQ", "rq": "RQ", "pq_things": "PQ things", "pq_stuff": "PQ stuff"},
    ),
    "semantic": (
        "mIoU",
        "Semantic segmentation",
        "overlap of predicted and true pixels of a class, mean over classes",
        {
            "pixel_accuracy": "pixel accuracy",
            "mean_accuracy": "mean accuracy",
            "frequency_weighted_iou": "weighted IoU",
            "dice": "Dice",
            "boundary_f1": "boundary F1",
            "ece": "ECE",
        },
    ),
    "instance": (
        "AP",
        "Instance segmentation",
        "average precision of masks, mean over IoU 0.50 to 0.95 and classes",
        {
            "ap50": "AP50",
            "ap75": "AP75",
            "ap_small": "AP small",
            "ap_medium": "AP medium",
            "ap_large": "AP large",
            "ar100": "AR100",
            "accuracy": "accuracy",
        },
    ),
}
# view -> the columns of the table of classes: title, key
PER_CLASS = {
    "panoptic": (("PQ", "pq_per_class"),),
    "semantic": (("IoU", "iou"), ("boundary F1", "boundary_f1_per_class")),
    "instance": (("AP", "ap_per_class"),),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All that is reported."""

    title: str
    task: str
    classes: tuple[ClassInfo, ...]
    metrics: Mapping[str, Mapping[str, Any]]  # by view, as metrics.json has them
    identity: Mapping[str, str]  # what was evaluated on what: shown as it is
    split: str
    history: Mapping[str, Sequence[float]]  # the columns of history.csv
    confusion: np.ndarray | None  # int64[n, n]: pixels by true and predicted class
    calibration: Sequence[Bin]  # none, where the model gives no probabilities
    precision_recall: Mapping[float, Mapping[str, Curve]]  # by IoU and class
    scores: Mapping[str, float | None]  # image id -> headline metric of that image
    cases: Sequence[Case]


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
        scores=_scores(evaluation),
        cases=pictures_within(evaluation.cases, evaluation.classes),
        confusions=_confusions(evaluation),
        confident=CONFIDENT,
        charts=_charts(evaluation),
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


def _charts(evaluation: Evaluation) -> dict[str, Any]:
    names = [c.name for c in evaluation.classes]
    confusion = evaluation.confusion
    return {
        "confusion": confusion is not None
        and charts.heat_map(confusion.tolist(), names, title="Confusion matrix: true classes against predicted ones"),
        "calibration": charts.reliability(evaluation.calibration) if evaluation.calibration else None,
        "precision": _precision_charts(evaluation.precision_recall),
        "history": _history_charts(evaluation.history),
    }


def _scores(evaluation: Evaluation) -> dict[str, Any] | None:
    """How the images' own scores spread."""
    name = CARDS[evaluation.task][0]
    values = sorted(score for score in evaluation.scores.values() if score is not None)
    if not values:
        return None
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest").tolist()
    marks = {"worst": values[0], "median": middle, "best": values[-1]}
    chart = charts.histogram(values, title=f"{name} of each image", x=name, marks=marks)
    return {"chart": chart, "low": low, "high": high, "undefined": len(evaluation.scores) - len(values)}


def _precision_charts(curves: Mapping[float, Mapping[str, Curve]]) -> list[dict[str, Any]]:
    """The mean over classes first, then a chart per class; each with a line per IoU, whose mean is the AP there."""
    classes = next(iter(curves.values()), {})
    defined = [name for name, line in classes.items() if line is not None]

    def chart(name: str, of: Sequence[str]) -> dict[str, Any]:
        means = {iou: np.array(mean_curve(by_class[c] for c in of)) for iou, by_class in curves.items()}
        lines = {f"IoU {iou:.2f}": list(zip(RECALLS, line.tolist(), strict=True)) for iou, line in means.items()}
        drawn = charts.line_chart(
            lines, title=f"{name}: precision over recall", x="recall", y_range=(0, 1), named=False
        )
        notes = [f"AP{100 * iou:.0f} {charts.number(float(line.mean()))}" for iou, line in means.items()]
        return {"name": name, "notes": notes, "chart": drawn}

    return [chart("all classes", defined), *(chart(name, [name]) for name in defined)] if defined else []


def _history_charts(history: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """The metrics of the validation split share one chart, since they share one scale; so do the losses. One epoch, and
    what is fitted and not trained has no more, is no curve."""
    if len(history.get("epoch", ())) < 2:
        return []
    columns = {name: list(zip(history["epoch"], values, strict=True)) for name, values in history.items()}
    metrics = {n.removeprefix("val_"): c for n, c in columns.items() if n.startswith("val_") and n != "val_loss"}
    titles = {HEADLINE[view]: card[0] for view, card in CARDS.items()}
    groups = {
        "loss": {n: c for n, c in columns.items() if n in ("train_loss", "val_loss")},
        "on the validation split": {titles.get(n, n): c for n, c in metrics.items()},
        **{f"loss term: {n[5:].replace('_', ' ')}": {n[5:]: c} for n, c in columns.items() if n.startswith("loss_")},
        "learning rate": {n: c for n, c in columns.items() if n == "learning_rate"},
    }
    return [_history_chart(name, lines) for name, lines in groups.items() if any(lines.values())]


def _history_chart(name: str, lines: Mapping[str, charts.Points]) -> dict[str, Any]:
    """One line needs no name: its last value stands beside the chart's."""
    notes = [charts.number(line[-1][1]) for line in lines.values()] if len(lines) == 1 else []
    drawn = charts.line_chart(lines, title=f"{name} over epochs", x="epoch", named=len(lines) > 1)
    return {"name": name, "notes": notes, "chart": drawn}


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
    image = _data_uri(pictures.fit(case.image, size))
    shown = {
        view: {
            "truth": (_data_uri(v.truth), v.truth_labels),
            "prediction": (_data_uri(v.prediction), v.prediction_labels),
            "errors": (_data_uri(v.errors), ()),
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


def _data_uri(picture: np.ndarray) -> str:
    """WebP: a flat map stays exact and is small, a photograph is as good as the eye asks for."""
    colors = np.unique(picture.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1]))
    quality = 101 if colors.size <= FLAT_COLORS else 88  # above 100 is lossless
    encoded = cv2.imencode(".webp", picture[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, quality])[1]
    return f"data:image/webp;base64,{base64.b64encode(encoded.tobytes()).decode()}"
