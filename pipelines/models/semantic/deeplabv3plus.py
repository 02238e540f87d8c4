"""DeepLab v3+: Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018 (arXiv 1802.02611).

An encoder of output stride 16, its last stage dilated instead of strided; ASPP at rates 6, 12, 18; a decoder that
joins its result with 48 channels of the features at stride 4, refines them by two 3x3 convolutions and scales up by 4.
All atrous and decoder convolutions are depthwise separable.

Deviations: any timm encoder that can be dilated, not the paper's aligned Xception; no norm in ASPP's image pooling
(`blocks.ImagePooling` says why); `channels` is the width of ASPP and decoder (the paper: 256). ASPP is held against
torchvision's with equal weights.
"""

import torch
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import ASPP, ConvNormAct, SeparableConv, resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel

LOW_LEVEL = 48  # channels of the finer features: more of them would outweigh ASPP's (the paper's table 1)


class DeepLabV3Plus(SemanticModel):
    stride = 16

    def __init__(
        self,
        *,
        classes: Classes,
        in_channels: int = 3,
        encoder: str = "paper",
        weights: str = "none",
        channels: int | None = None,
    ):
        super().__init__()
        channels = channels or 256
        self.encoder = encoders.build(
            encoder, weights, output_stride=self.stride, in_channels=in_channels, paper="xception65"
        )
        self.low, self.high = self.encoder.at(4), self.encoder.at(self.stride)
        self.aspp = ASPP(self.encoder.channels[self.high], channels, rates=(6, 12, 18))
        self.low_level = ConvNormAct(self.encoder.channels[self.low], LOW_LEVEL, 1)
        self.decoder = nn.Sequential(
            SeparableConv(channels + LOW_LEVEL, channels),
            SeparableConv(channels, channels),
            nn.Conv2d(channels, classes.count, 1),
        )

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        low = self.low_level(features[self.low])
        high = resize(self.aspp(features[self.high]), low.shape[-2:])
        logits = self.decoder(torch.cat([low, high], dim=1))
        return {"semantic": resize(logits, images.shape[-2:])}
