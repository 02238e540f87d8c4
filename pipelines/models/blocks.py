"""Layers that several architectures share."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def resize(x: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Bilinear, with pixels as areas (no aligned corners): a map at stride s covers the image it came from."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class ConvNormAct(nn.Sequential):
    """Convolution that keeps the size (at stride 1, odd kernels), batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1, groups: int = 1):
        padding = dilation * (kernel // 2)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class SeparableConv(nn.Sequential):
    """A spatial convolution of each channel, then a mix of the channels, each with its norm and ReLU
    (DeepLab v3+, arXiv 1802.02611, section 3.1)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, dilation: int = 1):
        super().__init__(
            ConvNormAct(inputs, inputs, kernel, dilation=dilation, groups=inputs), ConvNormAct(inputs, outputs, 1)
        )


class ImagePooling(nn.Module):
    """What the image as a whole says, given to every pixel.

    One value per channel and image has no batch statistics when the batch is one image, so there is a bias and no
    norm here, as in detectron2's DeepLab.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.mix = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.mix(x.mean(dim=(2, 3), keepdim=True)).relu()
        return pooled.expand(-1, -1, *x.shape[-2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab v3, arXiv 1706.05587); its atrous convolutions are `atrous`: dense as
    there, or separable as in v3+."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rates: tuple[int, ...],
        atrous: type[ConvNormAct] | type[SeparableConv] = SeparableConv,
    ):
        super().__init__()
        self.branches = nn.ModuleList(
            [
                ConvNormAct(inputs, outputs, 1),
                *(atrous(inputs, outputs, dilation=rate) for rate in rates),
                ImagePooling(inputs, outputs),
            ]
        )
        self.project = ConvNormAct(len(self.branches) * outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.project(torch.cat([branch(x) for branch in self.branches], dim=1))
        return projected


class FCNHead(nn.Sequential):
    """A small classifier on an inner stage, which only helps to train (PSPNet, arXiv 1612.01105, section 3.3)."""

    def __init__(self, inputs: int, classes: int):
        width = inputs // 4
        super().__init__(ConvNormAct(inputs, width), nn.Dropout(0.1), nn.Conv2d(width, classes, 1))
