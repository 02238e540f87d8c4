"""U-Net: Ronneberger, Fischer, Brox, MICCAI 2015 (arXiv 1505.04597).

A contracting path; an expanding path of 2x2 up-convolutions, each joined by the contracting path's features of that
size and followed by two 3x3 convolutions; a 1x1 convolution to the classes at full size.

The contracting path is the paper's own (`encoder: paper`: four poolings, 64 to 1024 channels) or any timm encoder,
whose every reduction gives a skip. Deviations, for both: padded convolutions, so that the output has the size of the image;
batch norm in place of the convolutions' biases; no dropout at the bottom. `channels` is the width at stride 4, halved
or doubled with each step from there as in the paper, whose widths it gives at 256. Held against the paper's layer
table, counted by hand.
"""

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.blocks import ConvNormAct
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel


def width_at(stride: int, channels: int) -> int:
    return channels * stride // 4


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, outputs), ConvNormAct(outputs, outputs))


class ContractingPath(nn.Module):
    """The paper's own encoder: two 3x3 convolutions, then 2x2 max pooling, and so on down to stride 16."""

    reductions = (1, 2, 4, 8, 16)

    def __init__(self, channels: int, in_channels: int):
        super().__init__()
        self.channels = [width_at(stride, channels) for stride in self.reductions]
        inputs = [in_channels, *self.channels[:-1]]
        self.levels = nn.ModuleList(double_conv(i, o) for i, o in zip(inputs, self.channels, strict=True))
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = [self.levels[0](images)]
        for level in self.levels[1:]:
            features.append(level(self.pool(features[-1])))
        return features


class Up(nn.Module):
    """One step of the expanding path; `skip` is 0 where the encoder has no features of that size."""

    def __init__(self, inputs: int, skip: int, outputs: int):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.convs = double_conv(outputs + skip, outputs)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        joined: Tensor = self.convs(x if skip is None else torch.cat([skip, x], dim=1))
        return joined


class UNet(SemanticModel):
    def __init__(
        self,
        *,
        classes: Classes,
        in_channels: int = 3,
        encoder: str = "paper",
        weights: str = "none",
        channels: int | None = None,
        padded: bool = True,
    ):
        super().__init__()
        channels = channels or 256
        self.encoder = contracting_path(encoder, weights, channels, in_channels)
        levels = {reduction: i for i, reduction in enumerate(self.encoder.reductions)}
        self.stride = max(levels)
        self.deepest = levels[self.stride]
        steps = [self.stride >> n for n in range(1, self.stride.bit_length())]  # ..., 4, 2, 1
        self.skips = [levels.get(step) for step in steps]
        widths = [self.encoder.channels[self.deepest], *(width_at(step, channels) for step in steps)]
        skips = [0 if level is None else self.encoder.channels[level] for level in self.skips]
        self.ups = nn.ModuleList(Up(i, s, o) for i, s, o in zip(widths[:-1], skips, widths[1:], strict=True))
        self.classifier = nn.Conv2d(widths[-1], classes.count, 1)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        x = features[self.deepest]
        for up, skip in zip(self.ups, self.skips, strict=True):
            x = up(x, None if skip is None else features[skip])
        return {"semantic": self.classifier(x)}


def contracting_path(encoder: str, weights: str, channels: int, in_channels: int) -> ContractingPath | encoders.Encoder:
    if encoder != "paper":
        return encoders.build(encoder, weights, in_channels=in_channels, paper="")
    if weights != "none":
        raise ConfigError(f"model.weights: there are no {weights} weights for U-Net's own encoder", do="say none")
    return ContractingPath(channels, in_channels)
