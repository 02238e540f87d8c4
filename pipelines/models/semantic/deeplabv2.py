"""DeepLab v2: Chen, Papandreou, Kokkinos, Murphy, Yuille, TPAMI 2017 (arXiv 1606.00915).

A ResNet-101 of output stride 8, its last stages dilated instead of strided; atrous spatial pyramid pooling, the sum of
four 3x3 classifiers at rates 6, 12, 18, 24; all that at several `scales` of the image, whose scores are scaled up and
fused by their maximum. In training each scale's own scores are auxiliary. The paper sharpens the result by a fully
connected CRF: `evaluate.inference.crf` in params.yaml.

With `channels`, each classifier of the pyramid is instead three layers of that width, as the paper has them on VGG-16
(there 1024; its figure 7). Without, they have no width that could be chosen.

Deviations: scaled images are rounded up to multiples of the stride; the weight of the auxiliary scores is
`loss.terms.auxiliary` (the authors: 1). timm's ResNets stride in the 3x3 convolution of a stage's first unit, which
is therefore the last one that is not dilated; the authors' stride before it. Held, with equal weights, against
torchvision's dilated ResNet-101, and the pyramid against its definition.
"""

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor, nn

from pipelines.models import atrous, encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel
from pipelines.models.semantic.deeplabv1 import LargeFOV

RATES = (6, 12, 18, 24)


class SummedPyramid(nn.Module):
    """ASPP before it had a norm: every classifier looks at its own distance, and they add up."""

    def __init__(self, inputs: int, channels: int | None, classes: int):
        super().__init__()
        self.classifiers = nn.ModuleList(
            nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate)
            if channels is None
            else LargeFOV(inputs, channels, classes, rate=rate)
            for rate in RATES
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([classifier(x) for classifier in self.classifiers]).sum(dim=0)


class DeepLabV2(SemanticModel):
    stride = atrous.STRIDE

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        scales: Sequence[float] = (0.5, 0.75, 1.0),
    ):
        super().__init__()
        self.scales = scales
        self.encoder = atrous.build(encoder, paper="resnet101")
        self.deepest = self.encoder.at(self.stride)
        self.aspp = SummedPyramid(self.encoder.channels[self.deepest], channels, classes.count)

    def forward(self, images: Tensor) -> Outputs:
        scores = [self.score(images, scale) for scale in self.scales]
        outputs = {"semantic": torch.stack(scores).amax(dim=0)}
        if self.training and len(scores) > 1:
            outputs |= {f"auxiliary_{i}".removesuffix("_1"): score for i, score in enumerate(scores, start=1)}
        return outputs

    def score(self, images: Tensor, scale: float) -> Tensor:
        """The logits that the image gets at one scale, at its own size again."""
        height, width = images.shape[-2:]
        scaled = images if scale == 1 else resize(images, (scaled_to(height, scale), scaled_to(width, scale)))
        return resize(self.aspp(self.encoder(scaled)[self.deepest]), (height, width))


def scaled_to(length: int, scale: float) -> int:
    """The next multiple of the stride; in whole numbers, which a length that is not known while tracing can take."""
    parts, whole = Fraction(scale).limit_denominator(100).as_integer_ratio()
    step = whole * atrous.STRIDE
    return (length * parts + step - 1) // step * atrous.STRIDE
