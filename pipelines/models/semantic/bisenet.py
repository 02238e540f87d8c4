"""BiSeNet: Yu, Wang, Peng, Gao, Yu, Sang, ECCV 2018 (arXiv 1808.00897).

A shallow spatial path down to stride 8 keeps the detail; a deep context path, whose tail pools the whole image and
whose features at strides 32 and 16 are refined by channel attention, knows what it is; feature fusion joins both, and
the scores are scaled up by 8. Two heads on the context path help to train.

The paper leaves widths and some layers open; they are those of the authors' code for ResNet-18
(github.com/ycszen/TorchSeg): 64 channels and a last 1x1 convolution in the spatial path, a 3x3 convolution in front of
each attention and behind each upsampling, 3x3 convolutions of 64 (auxiliary: 256) channels in the heads. `channels` is
the width of the context path (128), of which all others are a half, the same or the double.

Deviations: any timm encoder in place of ResNet-18; no aligned corners (`blocks.resize`); pooled maps of a batch of one
are normed by running statistics (`norm.SafeBatchNorm`). Held against that code's layers, counted by hand, and against
the modules' definitions, computed in float64.
"""

import torch
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import ConvNormAct, resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel
from pipelines.models.norm import SafeBatchNorm


def halved(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Convolution of stride 2, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride=2, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def spatial_path(inputs: int, channels: int) -> nn.Sequential:
    inner = channels // 2
    return nn.Sequential(
        halved(inputs, inner, 7), halved(inner, inner, 3), halved(inner, inner, 3), ConvNormAct(inner, channels, 1)
    )


class AttentionRefinement(nn.Module):
    """Weighs each channel by what the whole map says."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = ConvNormAct(inputs, outputs)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            SafeBatchNorm(outputs),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        refined: Tensor = x * self.attention(x)
        return refined


class FeatureFusion(nn.Module):
    """Two paths of different meaning and scale: one convolution and norm for both, then channels that are chosen."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = ConvNormAct(inputs, outputs, 1)
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        x = self.conv(torch.cat([spatial, context], dim=1))
        fused: Tensor = x + x * self.attention(x)
        return fused


class ContextPath(nn.Module):
    """The encoder's features at strides 32 and 16, refined and scaled up in turn -> maps at strides 16 and 8."""

    def __init__(self, at_32: int, at_16: int, channels: int):
        super().__init__()
        self.tail = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(at_32, channels, 1, bias=False),
            SafeBatchNorm(channels),
            nn.ReLU(inplace=True),
        )
        self.arm_32, self.arm_16 = AttentionRefinement(at_32, channels), AttentionRefinement(at_16, channels)
        self.refine_32, self.refine_16 = ConvNormAct(channels, channels), ConvNormAct(channels, channels)

    def forward(self, c32: Tensor, c16: Tensor, size_8: torch.Size) -> tuple[Tensor, Tensor]:
        x = self.arm_32(c32) + self.tail(c32)
        p16 = self.refine_32(resize(x, c16.shape[-2:]))
        x = self.arm_16(c16) + p16
        return p16, self.refine_16(resize(x, size_8))


def head(inputs: int, inner: int, classes: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(inputs, inner), nn.Conv2d(inner, classes, 1))


class BiSeNet(SemanticModel):
    stride = 32

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        channels = channels or 128
        self.encoder = encoders.build(encoder, paper="resnet18")
        self.at_16, self.at_32 = self.encoder.at(16), self.encoder.at(32)
        self.spatial_path = spatial_path(encoder.in_channels, channels)
        self.context_path = ContextPath(self.encoder.channels[self.at_32], self.encoder.channels[self.at_16], channels)
        self.fusion = FeatureFusion(2 * channels, 2 * channels)
        self.head = head(2 * channels, channels // 2, classes.count)
        self.auxiliary = head(channels, 2 * channels, classes.count)
        self.auxiliary_2 = head(channels, 2 * channels, classes.count)

    def forward(self, images: Tensor) -> Outputs:
        size = images.shape[-2:]
        spatial = self.spatial_path(images)
        features = self.encoder(images)
        p16, p8 = self.context_path(features[self.at_32], features[self.at_16], spatial.shape[-2:])
        outputs = {"semantic": resize(self.head(self.fusion(spatial, p8)), size)}
        if self.training:
            outputs["auxiliary"] = resize(self.auxiliary(p16), size)
            outputs["auxiliary_2"] = resize(self.auxiliary_2(p8), size)
        return outputs
