"""What `dvc plots` draws: small CSV files that can be told apart between revisions.

Undefined values are empty cells; a class whose name would be a formula in a spreadsheet is written as text.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipelines import files
from pipelines.metrics.calibration import Bin

ROWS_PER_CLASS = 100  # of confusion.csv: one per percent
NOT_REPEATABLE = ("seconds", "images_per_second")  # in the history: differs from run to run of the same inputs


def write(
    folder: Path,
    *,
    headline: str,
    metrics: Mapping[str, Mapping[str, Any]],
    history: Mapping[str, Sequence[float]],
    names: Sequence[str],
    confusion: np.ndarray | None,
    precision_recall: Mapping[float, Mapping[str, Sequence[float] | None]],
    calibration: Sequence[Bin],
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
    if calibration:
        header = ["confidence", "accuracy", "calibrated", "low", "high", "share"]
        bins = ((b.confidence, b.accuracy, b.confidence, b.low, b.high, b.share) for b in calibration)
        table(folder / "calibration.csv", header, bins)


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
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return int(value) if isinstance(value, float) and value.is_integer() else value
