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

    def forward(self, queries: Tensor, places: Tensor, cells: Tensor, shapes: list[torch.Size]) -> Tensor:
        """queries[b, n, c] at places[n, 2], (x, y) in 0..1; cells[b, m, c] of all maps in turn, whose shapes end in
        (h, w) -> [b, n, c]"""
        value = apart(self.value(cells)).transpose(1, 2)  # [b x heads, c / heads, m]
        maps = value.split([shape[-2] * shape[-1] for shape in shapes], dim=2)
        offsets = apart(self.offsets(queries)).unflatten(-1, (self.levels, POINTS, 2))
        weights = apart(self.weights(queries)).softmax(dim=-1).unflatten(-1, (self.levels, POINTS))
        seen = []
        for level, (x, shape) in enumerate(zip(maps, shapes, strict=True)):
            extent = torch.stack([offsets.new_full((), side) for side in (shape[-1], shape[-2])])
            grid = 2 * (places[:, None] + offsets[:, :, level] / extent) - 1
            sampled = F.grid_sample(x.unflatten(2, shape[-2:]), grid.to(x.dtype), align_corners=False)
            seen.append((sampled * weights[:, None, :, level]).sum(dim=-1))
        heads = torch.stack(seen).sum(dim=0).unflatten(0, (-1, HEADS)).flatten(1, 2)  # [b, c, n]
        found: Tensor = self.project(heads.transpose(1, 2))
        return found


def apart(x: Tensor) -> Tensor:
    """[b, n, heads x ...] -> [b x heads, n, ...]"""
    heads: Tensor = x.unflatten(-1, (HEADS, -1))
    return heads.transpose(1, 2).flatten(0, 1)
