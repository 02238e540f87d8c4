"""What `dvc plots` draws: small CSV files that can be told apart between revisions.

Undefined values are empty cells; a class whose name would be a formula in a spreadsheet is written as text.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from pipelines import files
from pipelines.metrics import sizes
from pipelines.metrics.calibration import Bin
from pipelines.metrics.pixel_failures import PixelFailures
from pipelines.metrics.ratios import ratio
from pipelines.metrics.segment_failures import SegmentFailures
from pipelines.reporting.charts import standalone

ROWS_PER_CLASS = 100  # of confusion.csv: one per percent
NOT_REPEATABLE = ("seconds", "images_per_second")  # in the history: differs from run to run of the same inputs


def write(
    folder: Path,
    *,
    headline: str,
    metrics: Mapping[str, Mapping[str, Any]],
    history: Mapping[str, Sequence[float | None]],
    names: Sequence[str],
    confusion: np.ndarray | None,
    precision_recall: Mapping[float, Mapping[str, Sequence[float] | None]],
    calibration: Sequence[Bin],
    detection_calibration: Sequence[Bin],
    failures: SegmentFailures | PixelFailures | None,
    latencies_ms: Sequence[float],
) -> None:
    """Those that the model has something for. The history's column of the task's own metric, val_<headline>, is
    repeated as `headline`: a plot that dvc.yaml declares finds it whatever the task."""
    curves: dict[str, Sequence[Any]] = {name: c for name, c in history.items() if name not in NOT_REPEATABLE}
    if f"val_{headline}" in history:
        curves["headline"] = history[f"val_{headline}"]
        curves.setdefault("train_loss", [None] * len(curves["headline"]))  # of what is fitted, not trained
    table(folder / "learning_curves.csv", list(curves), zip(*curves.values(), strict=True))
    if confusion is not None:
        columns = {key: metrics["semantic"].get(key, {}) for key in ("iou", "accuracy", "boundary_f1_per_class")}
        rows = ([name, *(values.get(name) for values in columns.values())] for name in names)
        table(folder / "iou_per_class.csv", ["class", "iou", "accuracy", "boundary_f1"], rows)
        pairs = _percents(confusion)
        table(folder / "confusion.csv", ["actual", "predicted"], ((names[i], names[j]) for i, j in pairs))
    if precision_recall:
        lines = {f"iou_{100 * iou:.0f}": mean_curve(by_class.values()) for iou, by_class in precision_recall.items()}
        recall = np.linspace(0, 1, 101).round(2).tolist()
        table(folder / "precision_recall.csv", ["recall", *lines], zip(recall, *lines.values(), strict=True))
    for name, bins in (("calibration", calibration), ("detection_calibration", detection_calibration)):
        if bins:
            header = ["confidence", "accuracy", "calibrated", "low", "high", "share"]
            cells = ((b.confidence, b.accuracy, b.confidence, b.low, b.high, b.share) for b in bins)
            table(folder / f"{name}.csv", header, cells)
    if failures is not None:
        _failures(folder, failures, names)
    if latencies_ms:
        shares = np.linspace(0, 100, len(latencies_ms)).round(2).tolist()
        table(folder / "latency.csv", ["percent", "latency_ms"], zip(shares, latencies_ms, strict=True))


def _failures(folder: Path, failures: SegmentFailures | PixelFailures, names: Sequence[str]) -> None:
    """How many of each kind, and what share of each size is right."""
    if isinstance(failures, SegmentFailures):
        counts = failures.compute()
    else:
        rows, _ = failures.rows()
        wrong = np.bincount(rows["truth_label"], rows["pixels"], minlength=len(names)).astype(np.int64)
        counts = dict(zip(names, wrong.tolist(), strict=True))
    table(folder / "error_types.csv", ["kind", "count"], counts.items())
    truths, found, judged, right = failures.by_size.sum(axis=0).T
    cells = zip(sizes.NAMES, truths.tolist(), ratio(found, truths).tolist(), ratio(right, judged).tolist(), strict=True)
    table(folder / "score_by_size.csv", ["size", "truths", "found", "right"], cells)


def figures(folder: Path, charts: Mapping[str, Markup]) -> None:
    """Each as an SVG that a browser, DVC and MLflow show."""
    for name, chart in charts.items():
        files.write_text(folder / f"{name}.svg", standalone(chart))


def picture(path: Path, pixels: np.ndarray) -> None:
    """uint8[h, w, 3] RGB -> a JPEG that a page or a README can hold."""
    with files.replacing(path, "wb") as file:
        Image.fromarray(pixels).save(file, format="jpeg", quality=85, optimize=True)


def _percents(confusion: np.ndarray) -> Iterable[tuple[int, int]]:
    """(true, predicted) once per percent of the true class's pixels. DVC's confusion templates count rows, and a row
    per pixel would be millions. The largest remainders make the percents of a row add up to 100."""
    for i, row in enumerate(confusion.astype(np.float64)):
        if not row.sum():
            continue
        exact = row / row.sum() * ROWS_PER_CLASS
        whole = np.floor(exact).astype(int)
        missing = ROWS_PER_CLASS - int(whole.sum())
        whole[np.argsort(whole - exact, kind="stable")[:missing]] += 1
        for j in np.flatnonzero(whole).tolist():
            yield from [(i, j)] * int(whole[j])


def mean_curve(curves: Iterable[Sequence[float] | None]) -> list[float | None]:
    """Of the classes that have one."""
    defined = [curve for curve in curves if curve is not None]
    return np.mean(defined, axis=0).tolist() if defined else [None] * 101


def table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with files.replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    if isinstance(value, float) and np.isnan(value):
        return None
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return int(value) if isinstance(value, float) and value.is_integer() else value
