"""Where a cell of a feature map lies, as sines and cosines: DETR's form (arXiv 2005.12872, appendix A.4) of Vaswani et
al. (arXiv 1706.03762); positions are shares of the map, so that any size will do."""

import math

import torch
from torch import Tensor

TEMPERATURE = 10000.0


def encoded(x: Tensor) -> Tensor:
    """[1, c, h, w] for a map[b, c, h, w]: half of the channels tell the row, half the column; c is a multiple of 4."""
    half = x.shape[1] // 2
    frequency = TEMPERATURE ** -(torch.arange(0, half, 2, device=x.device, dtype=torch.float32) / half)
    rows, columns = (_waves(x.shape[axis], frequency) for axis in (-2, -1))
    shape = (half, x.shape[-2], x.shape[-1])
    return torch.cat([rows[:, :, None].expand(shape), columns[:, None, :].expand(shape)])[None].to(x.dtype)


def _waves(cells: int, frequency: Tensor) -> Tensor:
    """[channels, cells]: sine and cosine in turn."""
    at = torch.arange(1, cells + 1, device=frequency.device) * (2 * math.pi / cells)
    angle = at * frequency[:, None]
    return torch.stack([angle.sin(), angle.cos()], dim=1).flatten(0, 1)
