"""The figures of an evaluation: those of the page, of `dvc plots` and of MLflow are the same ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from pipelines.config import HEADLINE
from pipelines.reporting import browsing, charts
from pipelines.reporting.content import CARDS, Curve, Evaluation
from pipelines.reporting.plots import mean_curve

RECALLS = np.linspace(0, 1, 101).round(2).tolist()
FILES = {"loss": "loss", "on the validation split": "validation"}  # charts of the history that are files


def alone(evaluation: Evaluation) -> dict[str, Markup]:
    """Each as a picture of its own, by the name of its file."""
    drawn = charts_of(evaluation)
    made = {f"training_{FILES[each['name']]}": each["chart"] for each in drawn["history"] if each["name"] in FILES}
    if (spread := scores(evaluation)) is not None:
        made["scores"] = spread["chart"]
    if drawn["precision"]:
        made["precision_recall"] = drawn["precision"][0]["chart"]
    if evaluation.failures is not None:
        made |= browsing.drawn(evaluation.failures, evaluation.classes)
    return {**made, **{name: chart for name, chart in drawn.items() if isinstance(chart, Markup)}}


def charts_of(evaluation: Evaluation) -> dict[str, Any]:
    """One for each name, or a list, or None where there is nothing to draw."""
    names, confusion = [c.name for c in evaluation.classes], evaluation.confusion
    matrix = "Confusion matrix: true classes against predicted ones"
    cost = evaluation.cost
    return {
        "confusion": None if confusion is None else charts.heat_map(confusion.tolist(), names, title=matrix),
        "calibration": charts.reliability(evaluation.calibration) if evaluation.calibration else None,
        "detection_calibration": charts.reliability(
            evaluation.detection_calibration, of="detections", said="score of the detection"
        )
        if evaluation.detection_calibration
        else None,
        "precision": precision_charts(evaluation.precision_recall),
        "history": history_charts(evaluation.history),
        "latency": latency_chart(cost.latencies_ms) if cost is not None and len(cost.latencies_ms) > 1 else None,
    }


def latency_chart(latencies: Sequence[float]) -> Markup:
    """Rising, over the share of the images."""
    steps = len(latencies) - 1
    line = [(100 * i / steps, value) for i, value in enumerate(latencies)]
    return charts.line_chart(
        {"ms": line}, title="Latency of the images, in milliseconds", x="% of the images", named=False
    )


def scores(evaluation: Evaluation) -> dict[str, Any] | None:
    """How the images' own scores spread."""
    name = CARDS[evaluation.task][0]
    values = sorted(score for score in evaluation.scores.values() if score is not None)
    if not values:
        return None
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], method="nearest").tolist()
    marks = {"worst": values[0], "median": middle, "best": values[-1]}
    chart = charts.histogram(values, title=f"{name} of each image", x=name, marks=marks)
    return {"chart": chart, "low": low, "high": high, "undefined": len(evaluation.scores) - len(values)}


def precision_charts(curves: Mapping[float, Mapping[str, Curve]]) -> list[dict[str, Any]]:
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


def history_charts(history: Mapping[str, Sequence[float | None]]) -> list[dict[str, Any]]:
    """The metrics of the validation split share one chart, since they share one scale; so do the losses. One epoch, and
    what is fitted and not trained has no more, is no curve; nor is what no epoch has measured."""
    if len(history.get("epoch", ())) < 2:
        return []
    points = {name: zip(history["epoch"], values, strict=True) for name, values in history.items()}
    known = {name: [(x, y) for x, y in line if x is not None and y is not None] for name, line in points.items()}
    columns = {name: line for name, line in known.items() if line}
    metrics = {n.removeprefix("val_"): c for n, c in columns.items() if n.startswith("val_") and n != "val_loss"}
    titles = {HEADLINE[view]: card[0] for view, card in CARDS.items()}
    groups = {
        "loss": {n: c for n, c in columns.items() if n in ("train_loss", "val_loss")},
        "on the validation split": {titles.get(n, n): c for n, c in metrics.items()},
        **{f"loss term: {n[5:].replace('_', ' ')}": {n[5:]: c} for n, c in columns.items() if n.startswith("loss_")},
        "learning rate": {n: c for n, c in columns.items() if n == "learning_rate"},
    }
    return [_history_chart(name, lines) for name, lines in groups.items() if lines]


def _history_chart(name: str, lines: Mapping[str, charts.Points]) -> dict[str, Any]:
    """One line needs no name: its last value stands beside the chart's."""
    notes = [charts.number(line[-1][1]) for line in lines.values()] if len(lines) == 1 else []
    drawn = charts.line_chart(lines, title=f"{name} over epochs", x="epoch", named=len(lines) > 1)
    return {"name": name, "notes": notes, "chart": drawn}
