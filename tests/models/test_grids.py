"""What SOLO and SOLOv2 share, against loops over objects and cells."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.models.instance import grids
from pipelines.models.instance.truths import Truth

GRIDS = (9, 7, 5, 4, 2)
SIZES = ((0, 12), (6, 20), (12, 30), (20, 50), (40, math.inf))


def truth_of(masks: np.ndarray, crowd: np.ndarray | None = None) -> Truth:
    """Boxes around masks; those of masks without a pixel are without extent."""
    boxes = []
    for mask in masks:
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [5, 5, 5, 5])
    return Truth(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(masks)) % 3,
        masks=torch.from_numpy(masks),
        crowd=torch.from_numpy(np.zeros(masks.shape[1:], bool) if crowd is None else crowd),
    )


def blobs(rng: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Halves of ellipses, whose centres of mass are not those of their boxes; they overlap, and some have no pixel."""
    y, x = np.mgrid[:height, :width]
    masks = []
    for _ in range(count):
        cy, cx, ry, rx = rng.uniform(0, [height, width, height / 2, width / 2])
        masks.append((((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1) & (y * rx > x * ry - rng.uniform(-9, 9)))
    return np.array(masks, bool).reshape(-1, height, width)


def owner_by_loop(truth: Truth, grid: int, least: float, most: float) -> list[int]:
    """Which object each cell learns: the smallest of those whose centre region it meets."""
    height, width = truth.masks.shape[1:]
    owners, areas = np.full((grid, grid), -1), np.full((grid, grid), np.inf)
    for k, (mask, box) in enumerate(zip(truth.masks.numpy(), truth.boxes.numpy().astype(float), strict=True)):
        w, h = box[2] - box[0], box[3] - box[1]
        if not mask.any() or not least <= math.sqrt(w * h) <= most:
            continue
        cy, cx = (np.argwhere(mask) + 0.5).mean(axis=0)
        for i in range(grid):
            for j in range(grid):
                meets = (
                    i * height / grid <= cy + 0.1 * h and (i + 1) * height / grid > cy - 0.1 * h
                    and j * width / grid <= cx + 0.1 * w and (j + 1) * width / grid > cx - 0.1 * w
                )  # fmt: skip
                near = max(abs(i - cy * grid // height), abs(j - cx * grid // width)) <= 1
                if meets and near and mask.sum() < areas[i, j]:
                    owners[i, j], areas[i, j] = k, mask.sum()
    return owners.flatten().tolist()


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 8))
def test_cells_learn_the_objects_whose_centre_they_meet(seed, count):
    rng = np.random.default_rng(seed)
    truth = truth_of(blobs(rng, count, 53, 71))
    found = grids.assign(truth, GRIDS, SIZES).split([grid * grid for grid in GRIDS])
    for level, grid, size in zip(found, GRIDS, SIZES, strict=True):
        assert level.tolist() == owner_by_loop(truth, grid, *size)


def test_a_large_object_has_nine_cells_and_a_small_one_one():
    masks = np.zeros((2, 64, 64), bool)
    masks[0, :, :] = True
    masks[1, 33:36, 50:53] = True
    owners = grids.assign(truth_of(masks), (16,), ((0, math.inf),)).reshape(16, 16)
    assert (owners[7:10, 7:10] == 0).all()
    assert owners[8, 12] == 1
    assert (owners >= 0).sum() == 10


def test_of_objects_that_share_a_cell_the_smaller_has_it_whatever_their_order():
    masks = np.zeros((2, 32, 32), bool)
    masks[0, 8:24, 8:24] = True
    masks[1, 15:17, 15:17] = True
    assert set(grids.assign(truth_of(masks), (1,), ((0, math.inf),)).tolist()) == {1}
    assert set(grids.assign(truth_of(masks[::-1].copy()), (1,), ((0, math.inf),)).tolist()) == {0}


@pytest.mark.parametrize("side", [1, 2, 5, 40, 95, 96, 500, 3000])
def test_no_object_is_too_small_or_too_large_for_the_papers_levels(side):
    masks = np.ones((1, 8, 8), bool)
    truth = truth_of(masks)
    sized = Truth(boxes=torch.tensor([[0.0, 0, side, side]]), labels=truth.labels, masks=truth.masks, crowd=truth.crowd)
    levels = grids.assign(sized, (1, 1, 1, 1, 1), grids.SIZES).add(1).nonzero()[:, 0].tolist()
    paper = ((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048))
    assert levels == ([i for i, (least, most) in enumerate(paper) if least <= side <= most] or [4])


def test_a_cell_of_which_more_than_half_is_crowd_is_no_background():
    crowd = np.zeros((24, 36), bool)
    crowd[:11, :20] = True
    found = grids.crowded(torch.from_numpy(crowd), (6, 3, 2)).tolist()
    wanted = []
    for grid in (6, 3, 2):
        h, w = 24 // grid, 36 // grid
        for i in range(grid):
            for j in range(grid):
                wanted.append(crowd[i * h : (i + 1) * h, j * w : (j + 1) * w].mean() > 0.5)
    assert found == wanted


def test_shares_are_means_over_cells():
    masks = np.random.default_rng(0).random((3, 16, 24)) < 0.4
    found = grids.shares(torch.from_numpy(masks), 4)
    for k, i, j in np.ndindex(3, 4, 6):
        assert found[k, i, j].item() == pytest.approx(masks[k, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean())


def test_dice_is_v_nets_and_least_where_masks_are_equal_shares_too():
    rng = np.random.default_rng(1)
    found, wanted = rng.random((2, 5, 6, 7))
    by_hand = [
        1 - 2 * (p * t).sum() / ((p**2).sum() + (t**2).sum() + 0.002) for p, t in zip(found, wanted, strict=True)
    ]
    assert grids.dice(torch.tensor(found), torch.tensor(wanted)).tolist() == pytest.approx(by_hand)
    best = torch.tensor(wanted, requires_grad=True)
    loss = grids.dice(best, torch.tensor(wanted))
    loss.sum().backward()
    assert (loss < 1e-3).all()
    assert best.grad.abs().max() < 1e-4


@pytest.mark.parametrize("size", [(4, 6), (8, 12)])
def test_coordinates_are_the_same_place_at_any_resolution(size):
    x, y = grids.coordinates(torch.zeros(2, 5, *size))[1]
    assert x[0].tolist() == pytest.approx([(j + 0.5) / size[1] * 2 - 1 for j in range(size[1])])
    assert y[:, 0].tolist() == pytest.approx([(i + 0.5) / size[0] * 2 - 1 for i in range(size[0])])
    assert (x == x[0]).all()
    assert (y == y[:, :1]).all()


def test_levels_have_the_papers_strides():
    pyramid = [torch.randn(2, 3, 96 // s, 160 // s) for s in (4, 8, 16, 32)]
    levels = grids.levels_of(pyramid)
    assert [(96 // x.shape[2], 160 // x.shape[3]) for x in levels] == [(s, s) for s in (8, 8, 16, 32, 32)]
    torch.testing.assert_close(levels[0][:, :, 0, 0], pyramid[0][:, :, :2, :2].mean(dim=(2, 3)))
    torch.testing.assert_close(levels[4][:, :, 0, 0], pyramid[3][:, :, 0, 0])


@pytest.mark.parametrize(("channels", "groups"), [(512, 32), (256, 32), (128, 32), (16, 4), (9, 1), (8, 2), (4, 1)])
def test_norms_have_32_groups_where_there_are_channels(channels, groups):
    norm = grids.group_norm(channels)
    assert (norm.num_groups, norm.num_channels) == (groups, channels)
