"""SOLOv2: Wang, Zhang, Kong, Li, Shen, NeurIPS 2020 (arXiv 2003.10152).

SOLO with masks that are made on demand: each cell of the five grids says a class and a 1x1 kernel; the pyramid is
merged into one map of features at a quarter of the image's size, on which the kernel draws the mask. `grids` has the
rest: which cell learns which object, and how objects are found (points NMS on the classes, Matrix NMS on the masks).

`channels` is the width of the pyramid and of the kernels (the paper: 256); the branches have twice as many channels,
the levels of the mask features half as many before they are merged.

Deviations: any timm encoder, none of it frozen; images are taken as they come, not resized to a short side of 800
(`scale` multiplies the sizes of object that each level learns, which are for those); coordinates are those of cells'
middles, not of their corners. Held against all masks at once, against loops over cells, and against the number of
parameters of the authors' configuration.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from pipelines.models import encoders
from pipelines.models.contract import Classes, Outputs
from pipelines.models.fpn import FPN
from pipelines.models.instance.grids import (
    GRIDS,
    PRIOR,
    GridBranch,
    GridModel,
    coordinates,
    group_norm,
    initialise,
    levels_of,
    tower,
)

DEPTH = 4  # convolutions of a branch


class MaskFeatures(nn.Module):
    """p2..p5 -> one map at the size of p2: each level convolved and doubled until it is there, and all added up. Where
    things are, the deepest is told."""

    def __init__(self, inputs: int, channels: int, outputs: int):
        super().__init__()
        self.levels = nn.ModuleList(
            [tower(inputs, channels, 1), climb(inputs, channels, 1), climb(inputs, channels, 2)]
        )
        self.deepest = climb(inputs + 2, channels, 3)
        self.merge = Conv2dNormActivation(channels, outputs, 1, norm_layer=group_norm)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        *finer, p5 = pyramid
        x = self.deepest(torch.cat([p5, coordinates(p5)], dim=1))
        for level, features in zip(self.levels, finer, strict=True):
            x = x + level(features)
        merged: Tensor = self.merge(x)
        return merged


def climb(inputs: int, channels: int, steps: int) -> nn.Sequential:
    """Convolutions, the map twice as large after each."""
    layers = tower(inputs, channels, steps)
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(*(nn.Sequential(layer, up) for layer in layers))


class SOLOv2(GridModel):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        grids: Sequence[int] = GRIDS,
        scale: float = 1.0,
    ):
        super().__init__(classes=classes, grids=grids, scale=scale)
        channels = channels or 256
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.fpn = FPN(self.encoder, (4, 8, 16, 32), channels)
        self.category = GridBranch(grids, channels, 2 * channels, DEPTH, len(classes.things))
        self.kernel = GridBranch(grids, channels + 2, 2 * channels, DEPTH, channels)
        self.features = MaskFeatures(channels, channels // 2, channels)
        initialise(self.category.tower, self.kernel, self.features)
        initialise(self.category.say, prior=PRIOR)

    def forward(self, images: Tensor) -> Outputs:
        pyramid = self.fpn(self.encoder(images))
        levels = levels_of(pyramid)
        return {
            "category": self.category(levels),
            "kernel": self.kernel([torch.cat([x, coordinates(x)], dim=1) for x in levels]),
            "features": self.features(pyramid),
        }

    def masks(self, outputs: Outputs, image: int, level: int, cells: Tensor) -> Tensor:
        features = outputs["features"][image].float()
        kernels = outputs["kernel"][image].split(self.cells)[level][cells].float()
        logits: Tensor = (kernels @ features.flatten(1)).float()
        return logits.sigmoid().view(-1, *features.shape[1:])
