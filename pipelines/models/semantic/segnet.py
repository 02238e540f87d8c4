"""SegNet: Badrinarayanan, Kendall, Cipolla, PAMI 2017 (arXiv 1511.00561).

VGG-16's thirteen convolutions, each with batch norm and ReLU, and their mirror image: where the encoder halves the size
by max pooling, the decoder doubles it by putting each value back to where the maximum was, all else zero, and the
convolutions that follow make the map dense again. The last convolution gives the classes' scores. No features travel
from encoder to decoder, only positions.

It is its own encoder; ImageNet weights are those of timm's vgg16_bn. `channels` is the width of the first stage, which
the others multiply by 2, 4, 8 and 8 (the paper: 64). Deviation: none known. Held against the authors' layers, counted
by hand, against timm's vgg16_bn with equal weights, and its unpooling against torch's.
"""

from itertools import chain, pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel

VGG16 = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # of each stage: width in units of the first, convolutions


class Conv(nn.Sequential):
    """With a bias, which batch norm makes idle but vgg16_bn's weights have."""

    def __init__(self, inputs: int, outputs: int):
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def stage(widths: list[int]) -> nn.Sequential:
    return nn.Sequential(*(Conv(i, o) for i, o in pairwise(widths)))


class SegNet(SemanticModel):
    stride = 32

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        if not encoder.is_papers:
            raise ConfigError(
                f"model.encoder: SegNet is VGG-16 and its mirror image, it cannot stand on '{encoder.name}'",
                do="set model.encoder: paper",
            )
        widths = [(channels or 64) * times for times, _ in VGG16]
        depths = [depth for _, depth in VGG16]
        stages = list(zip([encoder.in_channels, *widths[:-1]], widths, depths, strict=True))
        self.encoder = nn.ModuleList(stage([inputs] + depth * [width]) for inputs, width, depth in stages)
        self.decoder = nn.ModuleList(
            stage(depth * [width] + [outputs]) for outputs, width, depth in reversed(stages[1:])
        )
        self.decoder.append(nn.Sequential(stage(2 * [widths[0]]), nn.Conv2d(widths[0], classes.count, 3, padding=1)))
        encoders.load(self.layers(), "vgg16_bn", encoder)

    def layers(self) -> dict[str, nn.Module]:
        """The encoder's layers by the names that timm's vgg16_bn gives them, poolings counted."""
        stages = [
            [*(layer for conv in convs.children() for layer in conv.children()), nn.Identity()]
            for convs in self.encoder
        ]
        return {f"features.{i}": layer for i, layer in enumerate(chain.from_iterable(stages))}

    def forward(self, images: Tensor) -> Outputs:
        x, maxima = images, []
        for convs in self.encoder:
            x, indices = F.max_pool2d(convs(x), 2, return_indices=True)
            maxima.append(indices)
        for convs, indices in zip(self.decoder, reversed(maxima), strict=True):
            x = convs(F.max_unpool2d(x, indices, (2, 2)))
        return {"semantic": x}
