"""Masks from products, and the boxes around them, against geometry."""

import torch
import torch.nn.functional as F

from pipelines.models.instance import prototypes


def test_a_cell_is_in_a_mask_as_the_pixels_in_its_middle_say():
    torch.manual_seed(0)
    masks = F.interpolate(torch.randn(5, 1, 9, 12), scale_factor=4, mode="bilinear")[:, 0] > 0
    for stride in (4, 2):
        # Bilinear, with pixels as areas: at an even factor, the mean of the four pixels in the middle.
        wanted = F.interpolate(masks[:, None].float(), scale_factor=1 / stride, mode="bilinear")[:, 0] >= 0.5
        assert torch.equal(prototypes.cells(masks, stride), wanted)
    assert prototypes.cells(masks[:0], 4).shape == (0, 9, 12)


def test_the_cells_inside_are_those_whose_middle_is():
    boxes = torch.tensor([[3.0, 1, 9, 7], [0, 0, 16, 12], [5, 5, 5.5, 5.5]])
    found = prototypes.inside(boxes, (3, 4), 4)
    for box, cells in zip(boxes.tolist(), found.tolist(), strict=True):
        for row in range(3):
            for column in range(4):
                x, y = 4 * column + 2, 4 * row + 2
                assert cells[row][column] == (box[0] < x < box[2] and box[1] < y < box[3])


def test_a_box_grows_on_each_side():
    boxes = torch.tensor([[10.0, 20, 30, 60], [5, 5, 6, 6]])
    assert prototypes.grown(boxes, 0.25, 4).tolist() == [[5, 10, 35, 70], [1, 1, 10, 10]]


def test_masks_are_painted_at_full_size_and_cut():
    logits = torch.full((40, 8, 8), -1.0)  # more than are scaled up at once
    logits[:, :, 4:] = 1
    boxes = torch.tensor([[0.0, 0, 32, 32], [20, 4, 24, 30]]).repeat(20, 1)
    painted = prototypes.paint(logits, boxes, 4, (29, 31))
    assert painted.shape == (40, 29, 31)
    assert painted[0, :, 16:].all()
    assert not painted[0, :, :16].any()
    assert painted[1].nonzero().aminmax(dim=0).max.tolist() == [28, 23]
    assert painted[1].sum() == 4 * 25
    assert torch.equal(painted[2:], painted[:2].repeat(19, 1, 1))
    assert prototypes.paint(logits[:0], boxes[:0], 4, (29, 31)).shape == (0, 29, 31)


def test_a_threshold_is_one_of_logits():
    logits = torch.full((1, 4, 4), -0.2)
    box = torch.tensor([[0.0, 0, 16, 16]])
    assert not prototypes.paint(logits, box, 4, (16, 16)).any()
    assert prototypes.paint(logits, box, 4, (16, 16), threshold=-0.4).all()
