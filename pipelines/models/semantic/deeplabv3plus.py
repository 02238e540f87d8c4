"""DeepLab v3+: Chen, Zhu, Papandreou, Schroff, Adam, ECCV 2018 (arXiv 1802.02611).

An encoder of output stride 16 or 8, its last stages dilated instead of strided: the aligned Xception-65
(`encoder: paper`), or any of timm's that can be dilated. ASPP at rates 6, 12, 18, or twice that at stride 8; a decoder
that joins its result with 48 channels of the features at stride 4, refines them by two 3x3 convolutions and scales up
by 4. All atrous and decoder convolutions are depthwise separable. `channels` is the width of ASPP and decoder (the
paper: 256).

Deviation: no norm in ASPP's image pooling (`blocks.ImagePooling` says why). Held, with equal weights, against a network
of segmentation_models_pytorch's parts and against torchvision's ASPP; and against the paper's multiply-adds.
"""

import torch
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import ASPP, ConvNormAct, SeparableConv, resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel
from pipelines.models.semantic.deeplabv3 import rates_at

LOW_LEVEL = 48  # channels of the finer features: more of them would outweigh ASPP's (the paper's table 1)


class DeepLabV3Plus(SemanticModel):
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
        self.encoder = encoders.build(encoder, output_stride=output_stride, paper="xception65")
        self.low, self.high = self.encoder.at(4), self.encoder.at(self.stride)
        self.aspp = ASPP(self.encoder.channels[self.high], channels, rates=rates_at(output_stride))
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
        logits = self.decoder(torch.cat([high, low], dim=1))
        return {"semantic": resize(logits, images.shape[-2:])}
