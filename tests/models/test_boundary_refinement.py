"""Mask-based boundary refinement against Bayes' rule, and against boxes that are known."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines.models.instance import boundary_refinement
from pipelines.models.instance.boundary_refinement import BoundaryRefinement, profiles

HEIGHT, WIDTH = 40, 56
BOXES = torch.tensor([[8.0, 4, 40, 36], [20, 12, 28, 20], [0, 0, 56, 40], [44, 8, 56, 40]])


def filled(boxes: Tensor) -> Tensor:
    """0..1[n, HEIGHT, WIDTH]: 1 within each box."""
    y, x = torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5
    x1, y1, x2, y2 = boxes[:, :, None].unbind(dim=1)
    return (((y > y1) & (y < y2))[:, :, None] & ((x > x1) & (x < x2))[:, None]).float()


def test_it_is_bayes_rule():
    torch.manual_seed(0)
    module = BoundaryRefinement()
    with torch.no_grad():
        module.likelihood.weight.normal_()
    columns, rows = torch.rand(4, WIDTH), torch.rand(4, HEIGHT)
    found = [side.detach().exp() for side in module(columns, rows, BOXES + 0.3)]
    weight, bias = module.likelihood.weight.detach().flatten().numpy(), float(module.likelihood.bias.detach())
    for k in range(4):
        x1, y1, x2, y2 = (BOXES[k] + 0.3).tolist()
        across, along = max(0.05 * (x2 - x1), 1), max(0.05 * (y2 - y1), 1)
        sides = [
            (columns[k], x1, across),
            (rows[k], y1, along),
            (columns[k].flip(0), WIDTH - x2, across),
            (rows[k].flip(0), HEIGHT - y2, along),
        ]
        for side, (profile, end, spread) in zip(found, sides, strict=True):
            padded = np.pad(profile.numpy(), 4)
            posterior = np.array(
                [
                    np.exp(-((i - end) ** 2) / (2 * spread**2)) / (1 + np.exp(-(padded[i : i + 9] @ weight + bias)))
                    for i in range(len(profile))
                ]
            )
            np.testing.assert_allclose(side[k], posterior / posterior.sum(), rtol=1e-4, atol=1e-6)


def test_boxes_that_are_off_move_to_the_mask():
    columns, rows = profiles(filled(BOXES), 1, (HEIGHT, WIDTH))
    moved = BOXES + torch.tensor([[1.3, -1.2, -1.4, 1.1]])
    torch.testing.assert_close(BoundaryRefinement().refine(columns, rows, moved), BOXES)


def test_a_mask_without_an_edge_leaves_a_box_at_its_pixels():
    columns, rows = torch.zeros(4, WIDTH), torch.zeros(4, HEIGHT)
    refined = BoundaryRefinement().refine(columns, rows, BOXES + 0.3)
    torch.testing.assert_close(refined[:2], BOXES[:2], atol=1.0, rtol=0)


def test_sides_that_cross_refine_nothing():
    module = BoundaryRefinement()
    thin = torch.tensor([[20.2, 10.0, 20.6, 30.0]])
    columns = torch.zeros(1, WIDTH)
    columns[:, :20] = 1  # ends before the box begins
    refined = module.refine(columns, torch.ones(1, HEIGHT), thin)
    assert torch.equal(refined, thin)


def test_profiles_are_of_pixels():
    masks = filled(BOXES)
    columns, rows = profiles(masks[:, 2::4, 2::4], 4, (HEIGHT, WIDTH))
    assert torch.equal(columns > 0.5, masks.amax(dim=1) > 0.5)
    assert torch.equal(rows > 0.5, masks.amax(dim=2) > 0.5)
    columns, rows = profiles(masks[:, 2::4, 2::4], 4, (30, 41))
    assert (columns.shape, rows.shape) == ((4, 41), (4, 30))
    assert profiles(masks[:0], 4, (HEIGHT, WIDTH))[0].shape[0] == 0


def test_it_learns_to_read_masks():
    """Edges that are blurred: the kernel it begins with errs by more than the one it learns."""
    torch.manual_seed(0)
    module = BoundaryRefinement()
    soft = boundary_refinement.profiles(filled(BOXES)[:, 2::4, 2::4] * 0.9, 4, (HEIGHT, WIDTH))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    history = []
    for _ in range(150):
        loss = module.loss(*soft, BOXES).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert np.mean(history[-10:]) < 0.7 * np.mean(history[:10])
    for gap in (-1.5, 0.0, 1.5):
        torch.testing.assert_close(module.refine(*soft, BOXES + gap), BOXES, atol=1.0, rtol=0)


@pytest.mark.parametrize("count", [0, 1])
def test_no_object_costs_no_nan(count):
    module = BoundaryRefinement()
    loss = module.loss(torch.rand(count, WIDTH), torch.rand(count, HEIGHT), BOXES[:count])
    assert loss.shape == (count,)
    loss.sum().backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())
