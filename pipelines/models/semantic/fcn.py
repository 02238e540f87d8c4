"""FCN-32s, FCN-16s, FCN-8s: Long, Shelhamer, Darrell, CVPR 2015 (arXiv 1411.4038; PAMI version 1605.06211).

VGG-16 whose fully connected layers are convolutions, 7x7 and 1x1, with dropout; a 1x1 convolution scores the classes at
stride 32; transposed convolutions that start as bilinear interpolation and are learned bring the scores up to the
image. FCN-16s adds scores of pool4 on the way, FCN-8s of pool3 too. All scores start at zero, so that each net begins
as the coarser one.

Deviations: fc6 is padded by 3, and scores are repeated at the border before they are scaled up, in place of 100
pixels of zeros around the image and crops; trained at once, not one net from the other; the last transposed
convolution is learned as well (the authors' files freeze all of them). Any timm encoder with features at strides 8,
16 and 32 serves; fc6 and fc7 stand on it, too. `channels` is their width (the paper: 4096, at which they take
VGG's weights along with the encoder's). No batch norm: train it from ImageNet weights, or name `vgg16_bn`. Held
against the authors' layers, counted by hand, against torchvision's VGG-16 with equal weights, and against bilinear
interpolation.
"""

import torch
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel


class Upsample(nn.ConvTranspose2d):
    """Bilinear interpolation by `stride`, as a transposed convolution that goes on learning."""

    def __init__(self, channels: int, stride: int):
        super().__init__(channels, channels, 2 * stride, stride=stride, padding=stride + stride // 2, bias=False)
        distance = (torch.arange(2 * stride) - (stride - 0.5)).abs() / stride
        with torch.no_grad():
            self.weight.zero_()
            self.weight[range(channels), range(channels)] = torch.outer(1 - distance, 1 - distance)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]  # of no given size
        x = torch.cat([x[..., :1, :], x, x[..., -1:, :]], dim=-2)
        return super().forward(torch.cat([x[..., :1], x, x[..., -1:]], dim=-1))


def score(inputs: int, classes: int) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, classes, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # it has one
    return layer


def fully_connected(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.Dropout(0.5))


class FCN(SemanticModel):
    stride = 32
    skips: tuple[int, ...]  # the strides at which finer scores join

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        width, strides = channels or 4096, (self.stride, *self.skips)
        self.encoder = encoders.build(encoder, paper="vgg16")
        vgg = self.encoder.name.startswith("vgg")
        # timm gives VGG's features before each pooling: what is at stride 16 becomes pool5.
        self.pool = nn.MaxPool2d(2) if vgg else nn.Identity()
        self.levels = [self.encoder.at(stride // 2 if vgg else stride) for stride in strides]
        pool5, *finer = (self.encoder.channels[level] for level in self.levels)
        self.fc6 = fully_connected(pool5, width, 7)
        self.fc7 = fully_connected(width, width, 1)
        self.score = score(width, classes.count)
        self.score_pools = nn.ModuleList(score(inputs, classes.count) for inputs in finer)
        self.upscores = nn.ModuleList(Upsample(classes.count, 2) for _ in finer)
        self.upscore = Upsample(classes.count, strides[-1])
        if vgg and width == 4096:
            layers = {"pre_logits.fc1": self.fc6[0], "pre_logits.fc2": self.fc7[0]}
            encoders.load(layers, self.encoder.name, encoder)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        pool5, *pools = (self.pool(features[level]) for level in self.levels)
        scores = self.score(self.fc7(self.fc6(pool5)))
        for upscore, score_pool, pool in zip(self.upscores, self.score_pools, pools, strict=True):
            scores = upscore(scores) + score_pool(pool)
        return {"semantic": self.upscore(scores)}


class FCN32s(FCN):
    skips = ()


class FCN16s(FCN):
    skips = (16,)


class FCN8s(FCN):
    skips = (16, 8)
