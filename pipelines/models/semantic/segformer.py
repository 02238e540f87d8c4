"""SegFormer: Xie, Wang, Yu, Anandkumar, Alvarez, Luo, NeurIPS 2021 (arXiv 2105.15203).

The features at strides 4, 8, 16 and 32, each brought to one width by a linear layer and to stride 4; a linear layer
that fuses all four; scores.

`encoder: paper` is mit_b0; mit_b1 to mit_b5 are named so (`mix_transformer`), and any timm encoder with these four
strides serves. `channels` is the decoder's width: the paper's is 256 for mit_b0 and mit_b1, 768 for the larger.

Deviations: the fusing layer works on each level before that is scaled up, and the results are added, which is the same
as concatenation before it (both steps are linear) at a fraction of the work. Held against segmentation_models_pytorch's
with equal weights, and against the paper's parameter counts.
"""

from torch import Tensor, nn

from pipelines.models import encoders, mix_transformer
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.heads import SemanticModel

DROPOUT = 0.1  # of the fused channels, as in the authors' code
WIDE = ("mit_b2", "mit_b3", "mit_b4", "mit_b5")


class AllMLP(nn.Module):
    """Feature maps, finest first -> scores at the size of the finest; a linear layer per pixel is a 1x1 convolution."""

    def __init__(self, inputs: list[int], channels: int, classes: int):
        super().__init__()
        self.linear = nn.ModuleList(nn.Conv2d(given, channels, 1) for given in inputs)
        self.fuse = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in inputs)
        self.activate = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Dropout2d(DROPOUT))
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        finest = features[0].shape[-2:]
        levels = [fuse(linear(x)) for x, linear, fuse in zip(features, self.linear, self.fuse, strict=True)]
        fused = sum((resize(level, finest) for level in levels[1:]), start=levels[0])
        scores: Tensor = self.classify(self.activate(fused))
        return scores


class SegFormer(SemanticModel):
    stride = 32

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        encoder = encoder.or_else("mit_b0")
        self.encoder = encoder_of(encoder)
        self.levels = [self.encoder.at(stride) for stride in (4, 8, 16, 32)]
        inputs = [self.encoder.channels[level] for level in self.levels]
        self.decoder = AllMLP(inputs, channels or (768 if encoder.name in WIDE else 256), classes.count)

    def forward(self, images: Tensor) -> Outputs:
        features = self.encoder(images)
        scores = self.decoder([features[level] for level in self.levels])
        return {"semantic": resize(scores, images.shape[-2:])}


def encoder_of(choice: encoders.Choice) -> encoders.Encoder:
    if choice.name in mix_transformer.DEPTHS:
        return mix_transformer.build(choice)
    return encoders.build(choice, paper="mit_b0")
