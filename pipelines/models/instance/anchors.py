"""Anchors: boxes of a few shapes around every cell of a pyramid, and which of the true ones each is to find.

Unlike torchvision's generator these lie around the middles of cells and keep their sizes as they are, as the authors'
of YOLACT and RetinaNet do: torchvision's lie around the corners, half a stride off, and are rounded to whole pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_iou

from pipelines.models.instance import regions

BACKGROUND, UNKNOWN = -1, -2
CROWD = 0.7  # of an anchor in a crowd, above which it is no background (Detectron's and YOLACT's)


def shapes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """float32[sizes x ratios, 2]: width and height, of the area size^2; a ratio is height over width."""
    roots = torch.tensor(ratios).sqrt()
    return (torch.tensor(sizes)[:, None, None] * torch.stack([1 / roots, roots], dim=1)).flatten(0, 1)


def grid(size: tuple[int, int], stride: int, shapes: Tensor) -> Tensor:
    """float32[cells x shapes, 4]: all anchors of a level of an image of this (height, width), cells row by row."""
    y, x = ((torch.arange(-(-side // stride), device=shapes.device) + 0.5) * stride for side in size)
    middles = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).flatten(0, 1).unsqueeze(1)
    boxes: Tensor = torch.cat([middles - shapes / 2, middles + shapes / 2], dim=2)
    return boxes.flatten(0, 1)


def pyramid(
    size: tuple[int, int],
    strides: Sequence[int],
    sizes: Sequence[Sequence[float]],
    ratios: Sequence[float],
    device: torch.device,
) -> list[Tensor]:
    """The anchors of each level, which has sizes of its own."""
    levels = zip(strides, sizes, strict=True)
    return [grid(size, stride, shapes(level, ratios).to(device)) for stride, level in levels]


def rows_of(maps: Tensor, per_cell: int) -> Tensor:
    """[b, per_cell x k, h, w] -> [b, h x w x per_cell, k]: what is said of each anchor, in the order of `grid`."""
    rows: Tensor = maps.permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, maps.shape[1] // per_cell))
    return rows


def assign(anchors: Tensor, truths: Tensor, crowds: Tensor, *, positive: float, negative: float) -> Tensor:
    """int64[anchors]: the row of the truth that each is to find, BACKGROUND, or UNKNOWN.

    The truth that it overlaps most, from an IoU of `positive`; below `negative` it is background, unless it lies in a
    crowd. And however badly they fit, each truth has an anchor of its own.
    """
    if len(truths):
        overlap: Tensor = box_iou(truths, anchors)
        best, matches = overlap.max(dim=0)
        matches = matches.masked_fill(best < positive, UNKNOWN).masked_fill(best < negative, BACKGROUND)
        rows, own = pairs(overlap)
        matches[own] = rows
    else:
        matches = torch.full((len(anchors),), BACKGROUND, device=anchors.device)
    matches[(matches == BACKGROUND) & regions.covered(anchors, crowds, CROWD)] = UNKNOWN
    return matches


def pairs(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns of overlap[n, m] in pairs: again and again the two of those left that overlap most.

    Any two that are each other's best are such a pair, and all of them are taken at once: few rounds do.
    """
    rows = torch.arange(len(overlap), device=overlap.device)
    left, found = overlap.clone(), [(rows[:0], rows[:0])]
    while len(rows):
        most, column = left.max(dim=1)
        mutual = (most > 0) & (left[:, column].argmax(dim=0) == torch.arange(len(rows), device=rows.device))
        if not mutual.any():
            break
        found.append((rows[mutual], column[mutual]))
        left[:, column[mutual]] = 0
        left, rows = left[~mutual], rows[~mutual]
    first, second = (torch.cat(part) for part in zip(*found, strict=True))
    return first, second
