"""The CSV files that `dvc plots` draws."""

import csv
from collections import Counter

import numpy as np

from pipelines.metrics import sizes
from pipelines.metrics.calibration import Bin
from pipelines.metrics.pixel_failures import PixelFailures
from pipelines.metrics.segment_failures import KINDS, SegmentFailures
from pipelines.reporting import plots

NAMES = ["sky", "=cmd()", "road"]


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(folder, **changed):
    values = {
        "headline": "miou",
        "metrics": {"semantic": {"iou": {"sky": 0.5, "=cmd()": None, "road": 0.25}, "accuracy": dict.fromkeys(NAMES)}},
        "history": {"epoch": [0.0, 1.0], "train_loss": [2.0, 1.5], "val_miou": [0.1, 0.2], "seconds": [3.0, 4.0]},
        "names": NAMES,
        "confusion": np.array([[1_000_000, 3, 0], [0, 0, 0], [1, 1, 1]], np.int64),
        "calibration": [
            Bin(low=0.4, high=0.6, confidence=0.5, accuracy=0.25, share=0.125),
            Bin(low=0.8, high=1.0, confidence=0.9, accuracy=1.0, share=0.875),
        ],
        "detection_calibration": [Bin(low=0.0, high=0.2, confidence=0.1, accuracy=0.5, share=1.0)],
        "failures": None,
        "latencies_ms": (1.0, 2.0, 4.0),
        "precision_recall": {0.5: {"a": [1.0] * 101, "b": [0.0] * 101, "c": None}},
    }
    plots.write(folder, **(values | changed))


def test_confusion_has_a_row_per_percent(tmp_path):
    write(tmp_path)
    pairs = Counter((row["actual"], row["predicted"]) for row in read(tmp_path / "confusion.csv"))
    assert pairs["sky", "sky"] == 100  # three of a million round to nothing
    assert sum(n for (actual, _), n in pairs.items() if actual == "road") == 100
    assert sorted(n for (actual, _), n in pairs.items() if actual == "road") == [33, 33, 34]
    assert not any(actual == "'=cmd()" for actual, _ in pairs)


def test_undefined_is_empty_and_a_formula_is_text(tmp_path):
    write(tmp_path)
    rows = {row["class"]: row["iou"] for row in read(tmp_path / "iou_per_class.csv")}
    assert rows == {"sky": "0.5", "'=cmd()": "", "road": "0.25"}


def test_learning_curves_hold_what_can_be_repeated(tmp_path):
    write(tmp_path)
    rows = read(tmp_path / "learning_curves.csv")
    assert list(rows[0]) == ["epoch", "train_loss", "val_miou", "headline"]
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["headline"] for row in rows] == ["0.1", "0.2"]


def test_what_has_no_losses_has_the_column_that_dvc_yaml_names(tmp_path):
    write(tmp_path, history={"epoch": [0.0], "val_miou": [0.1], "seconds": [3.0]})
    assert read(tmp_path / "learning_curves.csv") == [
        {"epoch": "0", "val_miou": "0.1", "headline": "0.1", "train_loss": ""}
    ]


def test_precision_is_the_mean_of_the_classes_that_have_any(tmp_path):
    write(tmp_path)
    rows = read(tmp_path / "precision_recall.csv")
    assert [len(rows), rows[0]["recall"], rows[-1]["recall"]] == [101, "0", "1"]
    assert {row["iou_50"] for row in rows} == {"0.5"}


def test_calibration_has_a_row_for_each_bin_with_pixels(tmp_path):
    write(tmp_path)
    rows = read(tmp_path / "calibration.csv")
    assert [(row["confidence"], row["accuracy"], row["share"]) for row in rows] == [
        ("0.5", "0.25", "0.125"),
        ("0.9", "1", "0.875"),
    ]
    assert [row["calibrated"] for row in rows] == [row["confidence"] for row in rows]  # the diagonal


def test_a_task_without_a_view_has_no_file_for_it(tmp_path):
    nothing = {"precision_recall": {}, "calibration": [], "detection_calibration": [], "latencies_ms": ()}
    write(tmp_path, confusion=None, metrics={}, **nothing)
    assert [p.name for p in tmp_path.iterdir()] == ["learning_curves.csv"]


def test_detections_and_latencies_have_tables_of_their_own(tmp_path):
    write(tmp_path)
    (row,) = read(tmp_path / "detection_calibration.csv")
    assert (row["confidence"], row["accuracy"]) == ("0.1", "0.5")
    assert [tuple(row.values()) for row in read(tmp_path / "latency.csv")] == [("0", "1"), ("50", "2"), ("100", "4")]


def test_failures_by_kind_and_size(tmp_path):
    """Of two small truths one was found, by one of three predictions; of no other size there is any."""
    failures = SegmentFailures(NAMES)
    failures.by_size[1, 0] = [2, 1, 3, 1]
    write(tmp_path, failures=failures)
    assert [row["kind"] for row in read(tmp_path / "error_types.csv")] == list(KINDS)
    first, *others = read(tmp_path / "score_by_size.csv")
    assert first == {"size": sizes.NAMES[0], "truths": "2", "found": "0.5", "right": str(1 / 3)}
    assert {(row["truths"], row["found"], row["right"]) for row in others} == {("0", "", "")}


def test_wrong_pixels_by_class(tmp_path):
    failures = PixelFailures(NAMES)
    failures.update(np.array([[0, 0, 2, 2]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8))
    write(tmp_path, failures=failures)
    rows = {row["kind"]: row["count"] for row in read(tmp_path / "error_types.csv")}
    assert rows == {"sky": "1", "'=cmd()": "0", "road": "2"}
