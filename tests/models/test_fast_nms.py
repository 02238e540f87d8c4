"""Fast NMS against its definition, box by box."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import nms

from pipelines.models.instance.fast_nms import fast_nms


def iou(a: np.ndarray, b: np.ndarray) -> float:
    across = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(across, 0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def by_definition(boxes, scores, threshold, score, per_class, total):
    found = []
    for label in range(scores.shape[1]):
        ranked = sorted(range(len(boxes)), key=lambda i: -scores[i, label])[:per_class]
        for place, row in enumerate(ranked):
            beaten = any(iou(boxes[better], boxes[row]) > threshold for better in ranked[:place])
            if not beaten and scores[row, label] > score:
                found.append((float(scores[row, label]), row, label))
    return sorted(found, reverse=True)[:total]


def crowd(rng: np.random.Generator, count: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    corners = rng.uniform(0, 30, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 30, (count, 2))], axis=1).astype(np.float32)
    return boxes, rng.permutation(count * classes).reshape(count, classes).astype(np.float32) / (count * classes)


@given(st.integers(0, 2**32 - 1), st.integers(0, 25), st.integers(1, 4), st.sampled_from([3, 12, 200]))
def test_it_is_the_definition(seed, count, classes, most):
    boxes, scores = crowd(np.random.default_rng(seed), count, classes)
    wanted = by_definition(boxes, scores, 0.5, 0.05, most, 2 * most)
    rows, labels, kept = fast_nms(
        torch.from_numpy(boxes), torch.from_numpy(scores), iou=0.5, score=0.05, per_class=most, total=2 * most
    )
    assert list(zip(kept.tolist(), rows.tolist(), labels.tolist(), strict=True)) == wanted


@pytest.mark.parametrize("seed", range(5))
def test_it_keeps_no_more_than_the_sequential_one(seed):
    boxes, scores = (torch.from_numpy(part) for part in crowd(np.random.default_rng(seed), 100, 1))
    rows, _, _ = fast_nms(boxes, scores, iou=0.5, score=-1, per_class=100, total=100)
    assert set(rows.tolist()) < set(nms(boxes, scores[:, 0], 0.5).tolist())


def test_one_that_is_dropped_still_drops_others():
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # the first and the last: 0.25
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert fast_nms(boxes, scores, iou=0.5, score=0.05, per_class=10, total=10)[0].tolist() == [0]
    assert nms(boxes, scores[:, 0], 0.5).tolist() == [0, 2]
