"""Multi-scale deformable attention: Zhu, Su, Lu, Li, Wang, Dai, ICLR 2021 (arXiv 2010.04159), equation 3.

Each query looks at a few places of every feature map, near its own and named by itself, instead of at all of them: the
cost grows with the number of pixels, not with its square. Plain PyTorch, by `grid_sample`, where the authors have a
CUDA kernel. Held against the equation in numpy.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEADS, POINTS = 8, 4


class DeformableAttention(nn.Module):
    """`channels` is a multiple of HEADS."""

    def __init__(self, channels: int, levels: int):
        super().__init__()
        self.levels = levels
        self.offsets = nn.Linear(channels, HEADS * levels * POINTS * 2)
        self.weights = nn.Linear(channels, HEADS * levels * POINTS)
        self.value = nn.Linear(channels, channels)
        self.project = nn.Linear(channels, channels)
        self._initialise()

    def _initialise(self) -> None:
        """Each head begins by looking straight in a direction of its own, at 1, 2, 3 and 4 cells, alike at all."""
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.weights.weight)
        nn.init.zeros_(self.weights.bias)
        angle = torch.arange(HEADS) * (2 * math.pi / HEADS)
        direction = torch.stack([angle.cos(), angle.sin()], dim=1)
        direction = direction / direction.abs().amax(dim=1, keepdim=True)
        steps = torch.arange(1, POINTS + 1)[:, None] * direction[:, None, None]
        with torch.no_grad():
            self.offsets.bias.copy_(steps.expand(-1, self.levels, -1, -1).flatten())
        for layer in (self.value, self.project):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, queries: Tensor, places: Tensor, maps: list[Tensor]) -> Tensor:
        """queries[b, n, c], places[n, 2] as (x, y) in 0..1, `levels` maps[b, c, h, w] -> [b, n, c]"""
        offsets = self.offsets(queries).unflatten(-1, (HEADS, self.levels, POINTS, 2))
        weights = self.weights(queries).unflatten(-1, (HEADS, -1)).softmax(dim=-1).unflatten(-1, (self.levels, -1))
        seen = []
        for level, x in enumerate(maps):
            value = self.value(x.flatten(2).transpose(1, 2)).transpose(1, 2)
            value = value.unflatten(1, (HEADS, -1)).unflatten(-1, x.shape[-2:]).flatten(0, 1)  # [b x heads, c / heads]
            cells = torch.stack([torch.full_like(places[0, 0], x.shape[-1]), torch.full_like(places[0, 0], x.shape[-2])])
            at = places[:, None, None] + offsets[:, :, :, level] / cells
            grid = (2 * at - 1).transpose(1, 2).flatten(0, 1)  # [b x heads, n, points, 2]
            sampled = F.grid_sample(value, grid.to(value.dtype), align_corners=False)
            weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
            seen.append((sampled * weight).sum(dim=-1))
        heads = torch.stack(seen).sum(dim=0).unflatten(0, (-1, HEADS)).flatten(1, 2)  # [b, c, n]
        found: Tensor = self.project(heads.transpose(1, 2))
        return found
