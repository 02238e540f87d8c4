"""U-Net++: Zhou, Siddiquee, Tajbakhsh, Liang, DLMIA 2018 (arXiv 1807.10165), TMI 2020 (arXiv 1912.05074).

U-Nets of depths 1 to 4 in one, which share their encoder. Node X[i, j] lies at the encoder's level i and joins all
nodes before it at its level, X[i, 0], ..., X[i, j-1], with X[i+1, j-1] from below, raised by a 2x2 up-convolution; two
3x3 convolutions follow. X[i, 0] is the encoder. X[0, j] is the end of the U-Net of depth j.

With deep supervision each of these ends has its classifier and its own loss, all of equal weight. What they answer
together (`output: average`) is the mean of their probabilities, as in the paper: a mean of scores would let the end
with the largest scores decide. `output: 2` answers with the end of depth 2, and then nothing deeper is computed, in
the encoder neither. Without deep supervision the deepest end alone has a classifier.

The encoder is the paper's own (U-Net's with half the channels, 32 to 512) or any timm encoder, of whose strides the
last five count; where the first of these is not 1, scores are scaled up bilinearly from there, and with fewer of them
the net is less deep. `channels` is the width at stride 4 (the paper: 128), halved or doubled with each step.
Deviations: batch norm in place of the convolutions' biases and of dropout. Held against the authors' parameter count,
and against MONAI's with equal weights.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs, PixelLoss
from pipelines.models.heads import SemanticModel
from pipelines.models.semantic.unet import Up, contracting_path, width_at
from pipelines.targets import Targets


class UNetPlusPlus(SemanticModel):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        deep_supervision: bool = True,
        output: str | int = "average",
    ):
        super().__init__()
        channels = channels or 128
        self.encoder = contracting_path(encoder, channels)
        levels = {reduction: i for i, reduction in enumerate(self.encoder.reductions)}
        strides = list(levels)[-5:]
        if any(2 * fine != coarse for fine, coarse in pairwise(strides)):
            raise ConfigError(
                f"model.encoder: '{encoder}' has feature maps at strides {', '.join(map(str, strides))}; "
                "U-Net++ needs each to be twice the one before"
            )
        self.stride, self.depth = strides[-1], len(strides) - 1
        self.levels = [levels[stride] for stride in strides]
        self.ends = list(range(1, self.depth + 1)) if deep_supervision else [self.depth]
        if output != "average" and output not in self.ends:
            raise ConfigError(
                f"model.unetplusplus.output: there is no classifier at depth {output} (there is at "
                f"{', '.join(map(str, self.ends))}): deep supervision gives one to each, as deep as the encoder goes",
                do="set model.unetplusplus.output: average",
            )
        self.answers = self.ends if output == "average" else [int(output)]
        widths = [width_at(stride, channels) for stride in strides]
        below = [self.encoder.channels[level] for level in self.levels]
        self.nodes = nn.ModuleDict(
            {
                f"{i}_{j}": Up(below[i + 1] if j == 1 else widths[i + 1], below[i] + (j - 1) * widths[i], widths[i])
                for j in range(1, self.depth + 1)
                for i in range(self.depth + 1 - j)
            }
        )
        self.classifiers = nn.ModuleDict({str(end): nn.Conv2d(widths[0], classes.count, 1) for end in self.ends})

    def forward(self, images: Tensor) -> Outputs:
        ends = self.ends if self.training else self.answers
        nodes = self.top(images, depth=ends[-1])
        logits = {end: resize(self.classifiers[str(end)](nodes[end]), images.shape[-2:]) for end in ends}
        if self.training:
            return {"semantic": logits.pop(self.depth)} | {f"depth_{end}": scores for end, scores in logits.items()}
        if len(ends) == 1:
            return {"semantic": logits[ends[0]]}
        chances = torch.stack([scores.float().log_softmax(dim=1) for scores in logits.values()])
        return {"semantic": chances.logsumexp(dim=0) - math.log(len(ends))}

    def top(self, images: Tensor, depth: int) -> list[Tensor]:
        """X[0, 0], ..., X[0, depth]."""
        features = self.encoder.finest(images, self.levels[depth] + 1)
        x = {(i, 0): features[level] for i, level in enumerate(self.levels[: depth + 1])}
        for j in range(1, depth + 1):
            for i in range(depth + 1 - j):
                before = torch.cat([x[i, k] for k in range(j)], dim=1)
                x[i, j] = self.nodes[f"{i}_{j}"](x[i + 1, j - 1], before)
        return [x[0, j] for j in range(depth + 1)]

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        """In training the mean over all ends; in evaluation that of the answer."""
        return {"semantic": torch.stack([pixel_loss(logits, targets) for logits in outputs.values()]).mean()}
