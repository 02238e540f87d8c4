"""Feature pyramid: Lin et al., CVPR 2017 (arXiv 1612.03144), and RetinaNet's two levels on top (arXiv 1708.02002).

torchvision's, on any encoder: one width for all levels, each joined by the coarser one's nearest-neighbour upsampling.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from pipelines.models import encoders


class FPN(nn.Module):
    """The encoder's features -> maps of `channels` at `strides`, finest first; 64 and 128 are made from that at 32.

    Sizes are rounded up at strides that do not divide the image.
    """

    def __init__(self, encoder: encoders.Encoder, strides: Sequence[int], channels: int):
        super().__init__()
        self.strides = tuple(strides)
        self.levels = [encoder.at(stride) for stride in strides if stride <= 32]
        extra = LastLevelP6P7(channels, channels) if self.strides[-1] > 32 else None
        self.body = FeaturePyramidNetwork([encoder.channels[i] for i in self.levels], channels, extra)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        pyramid = self.body({str(i): features[i] for i in self.levels})
        return list(pyramid.values())[: len(self.strides)]
