"""Calibration errors against torchmetrics, by hand, and what must not change them."""

import json

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassCalibrationError

from pipelines.data.schema import IGNORE
from pipelines.metrics.calibration import BINS, CalibrationMetrics

Image = tuple[np.ndarray, np.ndarray, np.ndarray]


def images(count: int = 4, seed: int = 0) -> list[tuple[np.ndarray, torch.Tensor]]:
    """Truths with ignored pixels, and probabilities[1, classes, h, w] that are too sure by far."""
    random, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    made = []
    for _ in range(count):
        truth = rng.choice([0, 1, 2, 3, IGNORE], (31, 23)).astype(np.uint8)
        logits = torch.randn(1, 4, 31, 23, generator=random) * 2
        aim = torch.nn.functional.one_hot(torch.tensor(np.where(truth == IGNORE, 0, truth)).long(), 4).movedim(-1, 0)
        made.append((truth, (logits + 1.5 * aim).softmax(dim=1)))
    return made


def as_predicted(truth: np.ndarray, probabilities: torch.Tensor) -> Image:
    confidence, labels = probabilities[0].max(dim=0)
    return truth, labels.numpy().astype(np.uint8), confidence.numpy()


def evaluate(seen: list[Image]) -> CalibrationMetrics:
    metrics = CalibrationMetrics()
    for image in seen:
        metrics.update(*image)
    return metrics


@pytest.mark.parametrize("seed", range(3))
def test_equals_torchmetrics(seed: int) -> None:
    """No probability here lies on the edge of a bin, which torchmetrics gives to the upper one, Guo to the lower."""
    found = evaluate([as_predicted(*image) for image in images(seed=seed)]).compute()
    for name, norm in (("ece", "l1"), ("mce", "max")):
        theirs = MulticlassCalibrationError(num_classes=4, n_bins=BINS, norm=norm, ignore_index=IGNORE)
        for truth, probabilities in images(seed=seed):
            theirs.update(probabilities, torch.from_numpy(truth.astype(np.int64))[None])
        assert found[name] == pytest.approx(float(theirs.compute()), abs=1e-5)  # theirs is float32
    assert 0.05 < found["ece"] < found["mce"] < 1


def test_by_hand() -> None:
    truth = np.array([[0, 0, 1, 1, IGNORE, 2]], np.uint8)
    predicted = np.array([[0, 1, 1, 0, 1, IGNORE]], np.uint8)
    confidence = np.array([[0.75, 0.75, 1.0, 0.5, 0.9, 0.9]], np.float32)
    metrics = evaluate([(truth, predicted, confidence)])
    low, middle, high = metrics.bins()  # an ignored pixel and one that was given no class are in none
    assert [b.share for b in metrics.bins()] == [0.25, 0.5, 0.25]
    assert (low.confidence, low.accuracy, middle.confidence, middle.accuracy) == (0.5, 0.0, 0.75, 0.5)
    assert (high.low, high.high, high.confidence, high.accuracy) == (14 / 15, 1.0, 1.0, 1.0)
    assert metrics.compute() == {"ece": 0.25 * 0.5 + 0.5 * 0.25 + 0.25 * 0.0, "mce": 0.5}


@pytest.mark.parametrize("edge", [k / 15 for k in (0, 3, 6, 9, 12, 15)])
def test_an_edge_belongs_to_the_lower_bin(edge: float) -> None:
    """Fifths are edges; in float64, where they are met exactly."""
    (only,) = evaluate([(np.zeros((1, 1), np.uint8), np.zeros((1, 1), np.uint8), np.array([[edge]]))]).bins()
    assert only.high == pytest.approx(max(edge, 1 / 15))


def test_any_partition_and_order_is_the_same_to_the_last_bit() -> None:
    seen = [as_predicted(*image) for image in images(6)]
    merged = evaluate(seen[:1:-1])
    merged.merge(evaluate(seen[:2]))
    assert merged.compute() == evaluate(seen).compute()
    assert merged.bins() == evaluate(seen).bins()


def test_a_model_that_knows_what_it_knows_has_no_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.2, 1.0, (500, 500))
    truth = np.where(rng.random((500, 500)) < confidence, 0, 1).astype(np.uint8)
    found = evaluate([(truth, np.zeros_like(truth), confidence.astype(np.float32))]).compute()
    assert found["ece"] < 0.005


def test_nothing_seen_is_undefined() -> None:
    nothing = np.full((2, 2), IGNORE, np.uint8)
    for metrics in (CalibrationMetrics(), evaluate([(nothing, nothing, np.ones((2, 2), np.float32))])):
        assert metrics.compute() == {"ece": None, "mce": None}
        assert metrics.bins() == []
        json.dumps(metrics.compute(), allow_nan=False)


@pytest.mark.parametrize("wrong", [np.nan, -0.1, 1.5, np.inf])
def test_refuses_what_is_no_probability(wrong: float) -> None:
    labels = np.zeros((1, 2), np.uint8)
    with pytest.raises(ValueError, match="must be probabilities"):
        CalibrationMetrics().update(labels, labels, np.array([[0.5, wrong]], np.float32))


def test_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"confidence \(4, 5\)"):
        CalibrationMetrics().update(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 5)))
