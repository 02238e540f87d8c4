"""PSPNet: Zhao, Shi, Qi, Wang, Jia, CVPR 2017 (arXiv 1612.01105).

A ResNet-101 of output stride 8 (or 16), its last stages dilated instead of strided; its features are joined by their
means over 1x1, 2x2, 3x3 and 6x6 parts of the image, each mixed down to a fourth of their channels; a 3x3 convolution,
dropout and a 1x1 convolution to the classes, scaled up. In training an auxiliary head on the stage before the last.
`channels` is the width of the 3x3 convolution (the paper: 512).

Deviations: no norm where the mean is over the whole image (`blocks.ImagePooling` says why). The text's ResNet, not that
of the authors' files, whose first 7x7 convolution is three of 3x3 (`encoder: resnet101s`). Held, with equal weights,
against a network of torchvision's dilated ResNet-101 and FCNHead and segmentation_models_pytorch's pyramid.
"""

import torch
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import ConvNormAct, FCNHead, ImagePooling, resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel


class PyramidPooling(nn.Module):
    """The features, and what each part of the image says on average, for coarse to fine parts."""

    def __init__(self, inputs: int):
        super().__init__()
        width = inputs // 4
        self.levels = nn.ModuleList(
            [
                ImagePooling(inputs, width),
                *(nn.Sequential(nn.AdaptiveAvgPool2d(bins), ConvNormAct(inputs, width, 1)) for bins in (2, 3, 6)),
            ]
        )
        self.channels = inputs + len(self.levels) * width

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, *(resize(level(x), x.shape[-2:]) for level in self.levels)], dim=1)


class PSPNet(SemanticModel):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        output_stride: int = 8,
    ):
        super().__init__()
        channels = channels or 512
        self.stride = output_stride
        self.encoder = encoders.build(encoder, output_stride=output_stride, paper="resnet101")
        self.deepest = self.encoder.at(output_stride)
        self.pyramid = PyramidPooling(self.encoder.channels[self.deepest])
        self.head = nn.Sequential(
            ConvNormAct(self.pyramid.channels, channels), nn.Dropout(0.1), nn.Conv2d(channels, classes.count, 1)
        )
        self.auxiliary = FCNHead(self.encoder.channels[self.deepest - 1], classes.count)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        logits = {"semantic": self.head(self.pyramid(features[self.deepest]))}
        if self.training:
            logits["auxiliary"] = self.auxiliary(features[self.deepest - 1])
        return {name: resize(each, images.shape[-2:]) for name, each in logits.items()}
