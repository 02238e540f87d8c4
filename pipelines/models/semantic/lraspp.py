"""LR-ASPP: Howard, Sandler, Chu et al., "Searching for MobileNetV3", ICCV 2019 (arXiv 1905.02244), section 6.4.

MobileNetV3-Large, its last stage dilated to output stride 16; 128 channels of its end, weighed by what the image as a
whole says; scores from these and, added to them, from the features at stride 8.

`channels` is the width in front of the classifier (128). Deviations: any timm encoder that can be dilated; the finer
features are the last at stride 8, where the authors take those inside that block, three times as wide, and torchvision
those two blocks before; the last stage at its full width and one pooling over the whole image, as in torchvision, where
the paper halves the width and pools over windows of 49x49. The coarse scores are scaled up, not the features they are
taken from: the same numbers (both steps are linear), and less work.

Held against torchvision's with equal weights, but for the layers that its test names.
"""

from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import ConvNormAct, resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel


class LiteASPP(nn.Module):
    """The features at strides 8 and 16 -> scores[b, classes, h / 8, w / 8]."""

    def __init__(self, low: int, high: int, channels: int, classes: int):
        super().__init__()
        self.project = ConvNormAct(high, channels, 1)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(high, channels, 1, bias=False), nn.Sigmoid())
        self.classify_low = nn.Conv2d(low, classes, 1)
        self.classify_high = nn.Conv2d(channels, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        attended = self.project(high) * self.attention(high)
        fine, coarse = self.classify_low(low), self.classify_high(attended)
        scores: Tensor = fine + resize(coarse, fine.shape[-2:])
        return scores


class LRASPP(SemanticModel):
    stride = 16

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        self.encoder = encoders.build(encoder, output_stride=self.stride, paper="mobilenetv3_large_100")
        self.low, self.high = self.encoder.at(8), self.encoder.at(self.stride)
        low, high = self.encoder.channels[self.low], self.encoder.channels[self.high]
        self.head = LiteASPP(low, high, channels or 128, classes.count)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        scores = self.head(features[self.low], features[self.high])
        return {"semantic": resize(scores, images.shape[-2:])}
