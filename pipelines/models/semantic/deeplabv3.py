"""DeepLab v3: Chen, Papandreou, Schroff, Adam, 2017 (arXiv 1706.05587).

A ResNet-101 of output stride 16 or 8, its last stages dilated instead of strided; in block4 the units' rates are
multiplied by a multi-grid of 1, 2, 4. ASPP with batch norm and image-level pooling, at rates 6, 12, 18 or twice that at
stride 8; a 1x1 convolution to the classes, scaled up. `channels` is the width of ASPP (the paper: 256).

Deviations: an auxiliary head on block3 helps to train, as in torchvision; no norm in ASPP's image pooling
(`blocks.ImagePooling` says why); with an encoder that is not one of timm's ResNets all units of the last stage keep one
rate. Held, with equal weights, against torchvision's, from whose head the 3x3 convolution that the paper lacks is left
out.
"""

from itertools import cycle

from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import ASPP, ConvNormAct, FCNHead, resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel

MULTI_GRID = (1, 2, 4)


class DeepLabV3(SemanticModel):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        output_stride: int = 16,
    ):
        super().__init__()
        channels = channels or 256
        self.stride = output_stride
        self.encoder = encoders.build(encoder, output_stride=output_stride, paper="resnet101")
        apply_multi_grid(self.encoder, rate=32 // output_stride)
        self.deepest = self.encoder.at(output_stride)
        widths = self.encoder.channels
        self.aspp = ASPP(widths[self.deepest], channels, rates=rates_at(output_stride), atrous=ConvNormAct)
        self.classifier = nn.Conv2d(channels, classes.count, 1)
        self.auxiliary = FCNHead(widths[self.deepest - 1], classes.count)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        logits = {"semantic": self.classifier(self.aspp(features[self.deepest]))}
        if self.training:
            logits["auxiliary"] = self.auxiliary(features[self.deepest - 1])
        return {name: resize(each, images.shape[-2:]) for name, each in logits.items()}


def rates_at(output_stride: int) -> tuple[int, ...]:
    """ASPP's rates: the same reach in pixels at every stride."""
    return tuple(rate * 16 // output_stride for rate in (6, 12, 18))


def apply_multi_grid(encoder: encoders.Encoder, rate: int) -> None:
    """The units of a ResNet's block4 take `rate` times 1, 2, 4 in turn; for all their 3x3 convolutions."""
    for unit, factor in zip(getattr(encoder.body, "layer4", ()), cycle(MULTI_GRID), strict=False):
        for layer in unit.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation = layer.padding = (rate * factor, rate * factor)
