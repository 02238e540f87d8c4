"""Anchors against torchvision's; who is to find what, against the definition, anchor by anchor."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_iou

from pipelines.models.instance import anchors
from pipelines.models.instance.anchors import BACKGROUND, UNKNOWN

STRIDES, SIZES, RATIOS = (8, 16, 32), ((16.0, 24.0), (32.0, 48.0), (64.0, 96.0)), (0.5, 1.0, 2.0)
NOTHING = torch.zeros(0, 4)


def test_they_are_torchvisions_half_a_stride_on_and_not_rounded():
    ours = anchors.pyramid((64, 96), STRIDES, SIZES, RATIOS, torch.device("cpu"))
    cells = [(64 // stride, 96 // stride) for stride in STRIDES]
    theirs = AnchorGenerator(SIZES, (RATIOS,) * 3).grid_anchors(cells, [[stride, stride] for stride in STRIDES])
    for level, other, stride in zip(ours, theirs, STRIDES, strict=True):
        # Theirs has the shapes of a cell in another order: by ratio first.
        sorted_ours, sorted_theirs = (
            torch.stack(sorted(boxes.view(-1, 6, 4)[3], key=lambda box: (box[2] - box[0], box[3] - box[1])))
            for boxes in (level, other + stride / 2)
        )
        assert level.shape == other.shape
        torch.testing.assert_close(sorted_ours, sorted_theirs, atol=0.5, rtol=0)


def test_a_shape_has_its_size_s_area_and_its_ratio():
    shapes = anchors.shapes([12, 24], [1.0, 0.5, 2.0])
    torch.testing.assert_close(shapes.prod(dim=1), torch.tensor([144.0] * 3 + [576.0] * 3))
    torch.testing.assert_close(shapes[:, 1] / shapes[:, 0], torch.tensor([1.0, 0.5, 2.0] * 2))


def test_a_level_that_the_image_does_not_fill_is_rounded_up():
    boxes = anchors.grid((64, 96), 64, anchors.shapes([64], [1.0]))
    assert boxes.tolist() == [[0, 0, 64, 64], [64, 0, 128, 64]]


def test_rows_are_in_the_order_of_the_grid():
    """Maps that hold each anchor's own corner give the grid."""
    grid = anchors.grid((32, 48), 8, anchors.shapes([12], RATIOS))
    maps = grid.view(4, 6, 3 * 4).permute(2, 0, 1)[None]
    assert torch.equal(anchors.rows_of(maps, 3)[0], grid)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    across = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(across, 0)))
    return shared / float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared)


def by_definition(boxes: np.ndarray, truths: np.ndarray, positive: float, negative: float) -> list[int]:
    """One truth after the other takes its best anchor, the best pair of those left first; then the thresholds."""
    overlap = np.array([[iou(truth, box) for box in boxes] for truth in truths])
    matches = []
    for column in overlap.T:
        best = int(column.argmax())
        matches.append(best if column[best] >= positive else BACKGROUND if column[best] < negative else UNKNOWN)
    left = overlap.copy()
    for _ in truths:
        row, column = np.unravel_index(left.argmax(), left.shape)
        if left[row, column] > 0:
            matches[column] = int(row)
            left[row], left[:, column] = 0, 0
    return matches


def random_boxes(rng: np.random.Generator, count: int, least: float, most: float) -> np.ndarray:
    middles, sizes = rng.uniform(0, 64, (count, 2)), rng.uniform(least, most, (count, 2))
    return np.concatenate([middles - sizes / 2, middles + sizes / 2], axis=1)


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([(1, 5), (4, 40), (20, 60)]))
def test_assignment_is_the_definition(seed, count, sizes):
    rng = np.random.default_rng(seed)
    grid = torch.cat(anchors.pyramid((64, 64), STRIDES[1:], SIZES[1:], RATIOS, torch.device("cpu"))).double()
    truths = random_boxes(rng, count, *sizes)
    found = anchors.assign(grid, torch.from_numpy(truths), NOTHING.double(), positive=0.5, negative=0.4)
    wanted = by_definition(grid.numpy(), truths, 0.5, 0.4)
    assert found.tolist() == wanted
    assert set(range(count)) <= set(wanted), "each truth has an anchor"


@pytest.mark.parametrize("seed", range(5))
def test_but_for_anchors_of_their_own_it_is_torchvision_s(seed):
    grid = torch.cat(anchors.pyramid((64, 64), STRIDES, SIZES, RATIOS, torch.device("cpu")))
    truths = torch.from_numpy(random_boxes(np.random.default_rng(seed), 9, 10, 50)).float()
    found = anchors.assign(grid, truths, NOTHING, positive=0.5, negative=0.4)
    theirs = Matcher(0.5, 0.4)(box_iou(truths, grid))
    assert 0 < (theirs >= 0).sum() < len(grid)
    assert (found != theirs).sum() <= len(truths)
    assert (found[found != theirs] >= 0).all()


def test_two_that_want_the_same_anchor_get_one_each():
    grid = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10]])
    truths = torch.tensor([[0.0, 0, 9, 10], [0, 0, 10, 10]])
    assert anchors.assign(grid, truths, NOTHING, positive=0.5, negative=0.4).tolist() == [1, 0]


def test_equal_overlaps_come_to_an_end():
    rows, columns = anchors.pairs(torch.full((5, 7), 0.3))
    assert sorted(rows.tolist()) == list(range(5))
    assert len(set(columns.tolist())) == 5
    assert len(anchors.pairs(torch.zeros(3, 4))[0]) == 0


class TestCrowds:
    grid: Tensor = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    crowd: Tensor = torch.tensor([[0.0, 0, 31, 10]])

    def test_what_lies_in_one_is_no_background(self):
        found = anchors.assign(self.grid, NOTHING, self.crowd, positive=0.5, negative=0.4)
        assert found.tolist() == [UNKNOWN, UNKNOWN, BACKGROUND]

    def test_a_truth_in_one_is_a_truth(self):
        found = anchors.assign(self.grid, self.grid[1:2], self.crowd, positive=0.5, negative=0.4)
        assert found.tolist() == [UNKNOWN, 0, BACKGROUND]
