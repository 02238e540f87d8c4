"""Matrix NMS against the paper's formula, pair by pair."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.models.instance.matrix_nms import SIGMA, matrix_nms


def by_formula(masks: np.ndarray, labels: list[int], scores: list[float], kernel: str) -> list[float]:
    """Section 3.4 of arXiv 2003.10152: decay_j = min over surer i of f(iou_ij) / min over surer k of f(iou_ki)."""

    def f(iou: float) -> float:
        return math.exp(-SIGMA * iou**2) if kernel == "gaussian" else 1 - iou

    def iou(a: int, b: int) -> float:
        union = (masks[a] | masks[b]).sum()
        return (masks[a] & masks[b]).sum() / union if union else 0.0

    def surer(j: int) -> list[int]:
        return [i for i in range(len(scores)) if labels[i] == labels[j] and (-scores[i], i) < (-scores[j], j)]

    decayed = []
    for j, score in enumerate(scores):
        factors = [1.0]
        for i in surer(j):
            own = min([f(iou(k, i)) for k in surer(i)], default=1.0)
            factors.append(f(iou(i, j)) / own)
        decayed.append(score * min(factors))
    return decayed


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 14), classes=st.integers(1, 3))
def test_scores_decay_as_the_formula_says(kernel, seed, count, classes):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:20, :24]
    corners, sides = rng.integers(0, 16, (count, 2)), rng.integers(0, 14, (count, 2))
    boxes = [(y >= t) & (y < t + h) & (x >= v) & (x < v + w) for (t, v), (h, w) in zip(corners, sides, strict=True)]
    # Each with a pixel of its own: of masks that are the same, the linear kernel divides zero by zero.
    masks = np.concatenate([boxes, np.eye(count, 24, dtype=bool)[:, None]], axis=1)
    labels = rng.integers(0, classes, count).tolist()
    scores = (rng.integers(1, 8, count) / 8).tolist()  # some are equal
    found = matrix_nms(torch.from_numpy(masks), torch.tensor(labels), torch.tensor(scores), kernel)
    assert found.tolist() == pytest.approx(by_formula(masks, labels, scores, kernel), rel=1e-4)


@pytest.mark.parametrize(("kernel", "left"), [("gaussian", math.exp(-2)), ("linear", 0)])
def test_of_three_that_are_the_same_one_keeps_its_score(kernel, left):
    masks = torch.zeros(4, 8, 8, dtype=torch.bool)
    masks[:, 2:6, 2:6] = True
    found = matrix_nms(masks, torch.tensor([1, 1, 1, 0]), torch.tensor([0.5, 0.9, 0.5, 0.4]), kernel)
    assert found.tolist() == pytest.approx([0.5 * left, 0.9, 0.5 * left, 0.4], abs=1e-6)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_what_has_no_pixel_takes_no_part(kernel):
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    scores = torch.tensor([0.9, 0.5])
    assert matrix_nms(masks, torch.zeros(2), scores, kernel).tolist() == scores.tolist()
    assert not len(matrix_nms(masks[:0], torch.zeros(0), scores[:0], kernel))


def test_mixed_precision_counts_pixels_all_the_same():
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, :50, :41] = masks[1, 2:51, :43] = True
    given = masks, torch.zeros(2), torch.tensor([0.9, 0.5])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = matrix_nms(*given)
    assert torch.equal(found, matrix_nms(*given))
