"""DeepLab v1, LargeFOV: Chen, Papandreou, Kokkinos, Murphy, Yuille, ICLR 2015 (arXiv 1412.7062).

VGG-16 without the subsampling of its last two poolings, so that conv5 and fc6 take every second or twelfth pixel
instead; fc6 (3x3, rate 12) and fc7 (1x1) with 1024 channels, a 1x1 convolution to the classes, scaled up bilinearly by
8. The paper sharpens the result by a fully connected CRF: `evaluate.inference.crf` in params.yaml. `channels` is the
width of fc6 and fc7 (the paper: 1024). Any other encoder of timm that can be dilated to stride 8 will do.

Deviations: pools of 2x2 before stride 8, as VGG has them, not the authors' 3x3; fc6 and fc7 start from nothing, not
from VGG's; the loss is taken at full size, not at every eighth pixel. There is no batch norm: train it from ImageNet
weights, or name `vgg16_bn`. Held, with equal weights, against torchvision's VGG-16 dilated by hand, and against the
paper's 20.5 million parameters.
"""

from torch import Tensor, nn

from pipelines.models import atrous, encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel


class LargeFOV(nn.Sequential):
    """VGG's fully connected layers as convolutions, the first with its few pixels far apart."""

    def __init__(self, inputs: int, channels: int, classes: int, *, rate: int):
        fc6 = nn.Conv2d(inputs, channels, 3, padding=rate, dilation=rate)
        fc7 = nn.Conv2d(channels, channels, 1)
        for layer in (fc6, fc7):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        super().__init__(
            fc6, nn.ReLU(), nn.Dropout(0.5), fc7, nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(channels, classes, 1)
        )


class DeepLabV1(SemanticModel):
    stride = atrous.STRIDE

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        self.encoder = atrous.build(encoder, paper="vgg16")
        self.deepest = self.encoder.at(self.stride)
        self.classifier = LargeFOV(self.encoder.channels[self.deepest], channels or 1024, classes.count, rate=12)

    def forward(self, images: Tensor) -> Outputs:
        logits = self.classifier(self.encoder(images)[self.deepest])
        return {"semantic": resize(logits, images.shape[-2:])}
