"""DDRNet-23-slim: Hong, Pan, Sun, Jia, 2021 (arXiv 2101.06085).

From stride 8 on, a branch of high resolution that stays there and one of low resolution that goes down to stride 64,
fused in both directions after each of the next two stages; deep aggregation pyramid pooling on the coarsest map; one
head on the sum of both. A second head, on the high-resolution branch, helps to train.

Its encoder is its own. Layers and their names are those of the authors' code (github.com/ydhongHIT/DDRNet), so that
ImageNet weights published for it fit once they are saved as .safetensors. Held against that code with equal weights,
against the paper's parameter count, and pyramid pooling against its definition in float64.

Deviations: maps of one value per channel, such as the coarsest of a 64x64 image in a batch of one, are normed by
running statistics (`norm.SafeBatchNorm`). `channels` is the width at stride 4 (32), of which all others are multiples.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel
from pipelines.models.norm import SafeBatchNorm


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, SafeBatchNorm(outputs))


def norm_act_conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(SafeBatchNorm(inputs), nn.ReLU(inplace=True), conv)


class Basic(nn.Module):
    """ResNet's block of two convolutions, without the ReLU at its end: the branches are fused in front of that."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inputs, outputs, 3, stride)
        self.conv2, self.bn2 = conv_norm(outputs, outputs, 3)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        added: Tensor = self.bn2(self.conv2(inner)) + self.downsample(x)
        return added


class Bottleneck(nn.Module):
    """One of three convolutions, to twice the channels; no ReLU at its end either."""

    def __init__(self, inputs: int, channels: int, stride: int = 1):
        super().__init__()
        self.conv1, self.bn1 = conv_norm(inputs, channels, 1)
        self.conv2, self.bn2 = conv_norm(channels, channels, 3, stride)
        self.conv3, self.bn3 = conv_norm(channels, 2 * channels, 1)
        self.downsample = shortcut(inputs, 2 * channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        added: Tensor = self.bn3(self.conv3(inner)) + self.downsample(x)
        return added


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Identity() if (inputs, stride) == (outputs, 1) else conv_norm(inputs, outputs, 1, stride)


class Stage(nn.Sequential):
    """Two blocks, and a ReLU between them."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__(Basic(inputs, outputs, stride), Basic(outputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self[1](F.relu(self[0](x)))
        return last


class DualResolution(nn.Module):
    """images[b, c, h, w] -> the high-resolution branch after its first fusion, and both branches' ends: [.., 2c at
    stride 8], [.., 4c at stride 8], [.., 16c at stride 64]; a trailing underscore marks the high-resolution branch."""

    def __init__(self, inputs: int, c: int):
        super().__init__()
        self.conv1 = nn.Sequential(  # with the biases that the published weights have
            nn.Conv2d(inputs, c, 3, stride=2, padding=1), SafeBatchNorm(c), nn.ReLU(inplace=True),
            nn.Conv2d(c, c, 3, stride=2, padding=1), SafeBatchNorm(c), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.layer1 = Stage(c, c)
        self.layer2 = Stage(c, 2 * c, stride=2)
        self.layer3, self.layer3_ = Stage(2 * c, 4 * c, stride=2), Stage(2 * c, 2 * c)
        self.compression3, self.down3 = conv_norm(4 * c, 2 * c, 1), conv_norm(2 * c, 4 * c, 3, stride=2)
        self.layer4, self.layer4_ = Stage(4 * c, 8 * c, stride=2), Stage(2 * c, 2 * c)
        self.compression4 = conv_norm(8 * c, 2 * c, 1)
        self.down4 = nn.Sequential(
            *conv_norm(2 * c, 4 * c, 3, stride=2), nn.ReLU(inplace=True), *conv_norm(4 * c, 8 * c, 3, stride=2)
        )
        self.layer5 = nn.Sequential(Bottleneck(8 * c, 8 * c, stride=2))
        self.layer5_ = nn.Sequential(Bottleneck(2 * c, 2 * c))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.layer1(self.conv1(images)))
        x = F.relu(self.layer2(x))
        low, high = self.layer3(x), self.layer3_(x)
        low, high = fuse(low, high, self.down3, self.compression3)
        shallow = high
        low, high = self.layer4(F.relu(low)), self.layer4_(F.relu(high))
        low, high = fuse(low, high, self.down4, self.compression4)
        return shallow, self.layer5_(F.relu(high)), self.layer5(F.relu(low))


def fuse(low: Tensor, high: Tensor, down: nn.Module, compression: nn.Module) -> tuple[Tensor, Tensor]:
    """Each branch gets what the other held before."""
    raised = resize(compression(F.relu(low)), high.shape[-2:])
    return low + down(F.relu(high)), high + raised


class DAPPM(nn.Module):
    """Poolings of growing size, each refined together with the one before it, and a way around them all."""

    def __init__(self, inputs: int, channels: int, outputs: int):
        super().__init__()
        pools = [
            nn.Identity(), nn.AvgPool2d(5, 2, 2), nn.AvgPool2d(9, 4, 4), nn.AvgPool2d(17, 8, 8), nn.AdaptiveAvgPool2d(1)
        ]  # fmt: skip
        self.scales = nn.ModuleList(nn.Sequential(pool, norm_act_conv(inputs, channels, 1)) for pool in pools)
        self.processes = nn.ModuleList(norm_act_conv(channels, channels, 3) for _ in pools[1:])
        self.compression = norm_act_conv(len(pools) * channels, outputs, 1)
        self.shortcut = norm_act_conv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        contexts = [self.scales[0](x)]
        for scale, process in zip(self.scales[1:], self.processes, strict=True):
            contexts.append(process(resize(scale(x), x.shape[-2:]) + contexts[-1]))
        aggregated: Tensor = self.compression(torch.cat(contexts, dim=1)) + self.shortcut(x)
        return aggregated


def head(inputs: int, channels: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        norm_act_conv(inputs, channels, 3),
        SafeBatchNorm(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, classes, 1),
    )


class DDRNet23Slim(SemanticModel):
    stride = 8  # of the finer branch; the other one rounds its sizes up

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        c = channels or 32
        if not encoder.is_papers:
            raise ConfigError(
                f"model.encoder: DDRNet-23-slim has two branches of its own, which '{encoder.name}' has not",
                do="set model.encoder: paper",
            )
        self.encoder = DualResolution(encoder.in_channels, c)
        self.spp = DAPPM(16 * c, 4 * c, 4 * c)
        self.head = head(4 * c, 2 * c, classes.count)
        self.auxiliary = head(2 * c, 2 * c, classes.count)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        load(self.encoder, encoder)

    def forward(self, images: Tensor) -> Outputs:
        size = images.shape[-2:]
        shallow, high, low = self.encoder(images)
        context = resize(self.spp(low), high.shape[-2:])
        outputs = {"semantic": resize(self.head(high + context), size)}
        if self.training:
            outputs["auxiliary"] = resize(self.auxiliary(shallow), size)
        return outputs


def load(layers: DualResolution, choice: encoders.Choice) -> None:
    if choice.weights == "imagenet":
        raise ConfigError(
            "model.weights: DDRNet-23-slim's ImageNet weights are published as a pickle, which is not opened here",
            do="name a .safetensors file of them, or set model.weights: none",
        )
    encoders.load(dict(layers.named_children()), "ddrnet23_slim", choice)
