"""SOLO: Wang, Kong, Shen, Jiang, Li, ECCV 2020 (arXiv 1912.04488).

A feature pyramid; on each of five levels an S x S grid, every cell of which has a class and a mask of its own: the
mask branch has a channel per cell. Decoupled SOLO has S channels for columns and S for rows instead; a cell's mask is
the product of its column's and its row's. `grids` has the rest: which cell learns which object, and how objects are
found.

`channels` is the width of the pyramid and of the branches (the paper: 256).

Deviations: any timm encoder, none of it frozen; images are taken as they come, not resized to a short side of 800
(`scale` multiplies the sizes of object that each level learns, which are for those); coordinates are those of cells'
middles, not of their corners; masks start at a probability of 0.1 (the authors: 0.01, which takes longer to leave);
overlapping masks are suppressed by SOLOv2's points and Matrix NMS, as in the authors' code. Only masks that are asked
for are made: a cell's channel is a 1x1 kernel, applied before its mask is scaled up, which is the same as after it
(both are linear). Held against all channels at once, against loops over cells, and against the numbers of parameters of
the authors' configurations.
"""

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.contract import Classes, Outputs
from pipelines.models.fpn import FPN
from pipelines.models.instance.grids import (
    GRIDS,
    PRIOR,
    GridBranch,
    GridModel,
    coordinates,
    initialise,
    levels_of,
    tower,
)

MASK_PRIOR = 0.1  # probability of every pixel of every mask, at first
DEPTH = 7  # convolutions of a branch


class MaskBranch(nn.Module):
    """One kernel per cell, over features that know where they are."""

    def __init__(self, grids: Sequence[int], channels: int):
        super().__init__()
        self.tower = tower(channels + 2, channels, DEPTH)
        self.cells = nn.ModuleList(nn.Conv2d(channels, grid * grid, 1) for grid in grids)
        initialise(self.tower)
        initialise(self.cells, prior=MASK_PRIOR)

    def forward(self, levels: list[Tensor]) -> Outputs:
        return {f"mask_{i}": self.tower(torch.cat([x, coordinates(x)], dim=1)) for i, x in enumerate(levels)}

    def masks(self, outputs: Outputs, image: int, level: int, cells: Tensor) -> Tensor:
        features = outputs[f"mask_{level}"][image].float()
        conv = cast(nn.Conv2d, self.cells[level])
        kernels, bias = conv.weight[cells].flatten(1), cast(Tensor, conv.bias)[cells]
        logits = (kernels @ features.flatten(1) + bias[:, None]).float().unflatten(1, features.shape[1:])
        return twice(logits[:, None])[:, 0].sigmoid()


class DecoupledBranch(nn.Module):
    """One channel per column, one per row."""

    def __init__(self, grids: Sequence[int], channels: int):
        super().__init__()
        self.grids = tuple(grids)
        self.tower_x, self.tower_y = (tower(channels + 1, channels, DEPTH) for _ in range(2))
        self.columns, self.rows = (
            nn.ModuleList(nn.Conv2d(channels, grid, 3, padding=1) for grid in grids) for _ in range(2)
        )
        initialise(self.tower_x, self.tower_y)
        initialise(self.columns, self.rows, prior=MASK_PRIOR**0.5)

    def forward(self, levels: list[Tensor]) -> Outputs:
        outputs = {}
        for i, level in enumerate(levels):
            x, y = coordinates(level).split(1, dim=1)
            outputs[f"x_{i}"] = self.columns[i](twice(self.tower_x(torch.cat([level, x], dim=1))))
            outputs[f"y_{i}"] = self.rows[i](twice(self.tower_y(torch.cat([level, y], dim=1))))
        return outputs

    def masks(self, outputs: Outputs, image: int, level: int, cells: Tensor) -> Tensor:
        grid = self.grids[level]
        columns = outputs[f"x_{level}"][image, cells % grid].float().sigmoid()
        rows = outputs[f"y_{level}"][image, cells // grid].float().sigmoid()
        return columns * rows


class SOLO(GridModel):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        grids: Sequence[int] = GRIDS,
        scale: float = 1.0,
        decoupled: bool = False,
    ):
        super().__init__(classes=classes, grids=grids, scale=scale)
        channels = channels or 256
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.fpn = FPN(self.encoder, (4, 8, 16, 32), channels)
        self.category = GridBranch(grids, channels, channels, DEPTH, len(classes.things))
        self.mask = DecoupledBranch(grids, channels) if decoupled else MaskBranch(grids, channels)
        initialise(self.category.tower)
        initialise(self.category.say, prior=PRIOR)

    def forward(self, images: Tensor) -> Outputs:
        levels = levels_of(self.fpn(self.encoder(images)))
        return {"category": self.category(levels), **self.mask(levels)}

    def masks(self, outputs: Outputs, image: int, level: int, cells: Tensor) -> Tensor:
        return self.mask.masks(outputs, image, level, cells)


def twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
