"""What the descendants of DETR (Carion et al., ECCV 2020, arXiv 2005.12872) share, beside their attention."""

import math

import torch
from torch import Tensor, nn

TEMPERATURE = 10000.0


class FeedForward(nn.Module):
    """Each query thinks by itself; its residual, and its norm behind."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.inner, self.outer = nn.Linear(channels, inner), nn.Linear(inner, channels)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.inner.weight)
        nn.init.xavier_uniform_(self.outer.weight)

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(x + self.outer(self.inner(x).relu()))
        return normed


def positions(x: Tensor) -> Tensor:
    """[1, c, h, w] for a map[b, c, h, w]: where each cell lies as sines and cosines (Vaswani et al., arXiv 1706.03762),
    in shares of the map, so that any size will do. Half of the channels tell the row, half the column; c is a multiple
    of 4."""
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
