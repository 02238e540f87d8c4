"""U-Net: Ronneberger, Fischer, Brox, MICCAI 2015 (arXiv 1505.04597).

A contracting path; an expanding path of 2x2 up-convolutions, each joined by the contracting path's features of that
size and followed by two 3x3 convolutions; a 1x1 convolution to the classes at full size.

The contracting path is the paper's own (`encoder: paper`: four poolings, 64 to 1024 channels) or any timm encoder,
whose every reduction gives a skip. `channels` is the width at stride 4, halved or doubled with each step from there as
in the paper, whose widths it gives at 256.

`padded: false` is the paper's form: convolutions without padding and skips cropped to their middle, so that 572 pixels
become 388, each of which has seen nothing but image. What surrounds an image is its mirror image; what surrounds a tile
is its neighbours, and `surrounded` then gives the scores that the whole image would give (the overlap-tile strategy).
Padded, the default, the output has the size of the input. Deviations, for both: batch norm in place of the
convolutions' biases; no dropout at the bottom. Held against the paper's layer table, counted by hand, against MONAI's
with equal weights, and the two forms against each other.
"""

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.blocks import ConvNormAct
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel

# Unpadded, the convolutions take 4 pixels from each side at strides 1, 2, 4 and 8, and 2 at stride 16: 92. With 2 more
# every map that is pooled has an even size, and the poolings' cells start at the image's corner, whatever surrounds it.
CONTEXT = 94


def width_at(stride: int, channels: int) -> int:
    return channels * stride // 4


class ValidConv(nn.Sequential):
    """3x3 convolution that keeps only what it sees whole, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(nn.Conv2d(inputs, outputs, 3, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


Conv = type[ConvNormAct] | type[ValidConv]


def double_conv(inputs: int, outputs: int, conv: Conv) -> nn.Sequential:
    return nn.Sequential(conv(inputs, outputs), conv(outputs, outputs))


def centre(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of x, of that size."""
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]


def mirror(images: Tensor, margin: int) -> Tensor:
    """Images with so much more on each side, mirrored at their border pixels as often as it takes."""
    for axis in (2, 3):
        last = images.shape[axis] - 1
        there = torch.arange(-margin, last + 1 + margin, device=images.device) % (2 * last)
        images = images.index_select(axis, last - (there - last).abs())
    return images


class ContractingPath(nn.Module):
    """The paper's own encoder: two 3x3 convolutions, then 2x2 max pooling, and so on down to stride 16."""

    reductions = (1, 2, 4, 8, 16)

    def __init__(self, channels: int, in_channels: int, conv: Conv = ConvNormAct):
        super().__init__()
        self.channels = [width_at(stride, channels) for stride in self.reductions]
        inputs = [in_channels, *self.channels[:-1]]
        self.levels = nn.ModuleList(double_conv(i, o, conv) for i, o in zip(inputs, self.channels, strict=True))
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.finest(images, len(self.levels))

    def finest(self, images: Tensor, count: int) -> list[Tensor]:
        """The first `count` feature maps, and nothing behind them."""
        features = [self.levels[0](images)]
        for level in range(1, count):
            features.append(self.levels[level](self.pool(features[-1])))
        return features


class Up(nn.Module):
    """One step of the expanding path; `skip` is 0 where the encoder has no features of that size."""

    def __init__(self, inputs: int, skip: int, outputs: int, conv: Conv = ConvNormAct):
        super().__init__()
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        self.convs = double_conv(outputs + skip, outputs, conv)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        joined: Tensor = self.convs(x if skip is None else torch.cat([centre(skip, *x.shape[-2:]), x], dim=1))
        return joined


class UNet(SemanticModel):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        padded: bool = True,
    ):
        super().__init__()
        if not padded and not encoder.is_papers:
            raise ConfigError(
                f"model.unet.padded: U-Net's own encoder can do without padding, '{encoder.name}' cannot",
                do="set model.unet.padded: true, or model.encoder: paper",
            )
        channels, conv = channels or 256, ConvNormAct if padded else ValidConv
        self.context = 0 if padded else CONTEXT  # pixels on each side that the scores of an image are computed from
        self.encoder = contracting_path(encoder, channels, conv)
        levels = {reduction: i for i, reduction in enumerate(self.encoder.reductions)}
        self.stride = max(levels)
        self.deepest = levels[self.stride]
        steps = [self.stride >> n for n in range(1, self.stride.bit_length())]  # ..., 4, 2, 1
        self.skips = [levels.get(step) for step in steps]
        widths = [self.encoder.channels[self.deepest], *(width_at(step, channels) for step in steps)]
        skips = [0 if level is None else self.encoder.channels[level] for level in self.skips]
        self.ups = nn.ModuleList(Up(i, s, o, conv) for i, s, o in zip(widths[:-1], skips, widths[1:], strict=True))
        self.classifier = nn.Conv2d(widths[-1], classes.count, 1)

    def forward(self, images: Tensor) -> Outputs:
        return {"semantic": self.surrounded(mirror(images, self.context) if self.context else images)}

    def surrounded(self, images: Tensor) -> Tensor:
        """float[b, c, h + 2 * context, w + 2 * context] -> logits[b, classes, h, w]."""
        height, width = images.shape[-2:]
        return centre(self.network(images), height - 2 * self.context, width - 2 * self.context)

    def network(self, images: Tensor) -> Tensor:
        """The figure of the paper; unpadded, what goes in is 184 pixels larger than what comes out."""
        features = self.encoder(images)
        x = features[self.deepest]
        for up, skip in zip(self.ups, self.skips, strict=True):
            x = up(x, None if skip is None else features[skip])
        scores: Tensor = self.classifier(x)
        return scores


def contracting_path(
    choice: encoders.Choice, channels: int, conv: Conv = ConvNormAct
) -> ContractingPath | encoders.Encoder:
    if not choice.is_papers:
        return encoders.build(choice, paper="")
    if choice.weights != "none":
        found = f"there are no {choice.weights} weights for U-Net's own encoder"
        raise ConfigError(f"model.weights: {found}", do="say none")
    return ContractingPath(channels, choice.in_channels, conv)
