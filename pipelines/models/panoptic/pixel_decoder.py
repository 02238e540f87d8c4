"""The pixel decoder of Mask2Former (arXiv 2112.01527, section 3.2.2): Deformable DETR's encoder over three scales.

Six layers of multi-scale deformable attention over the features at strides 8, 16 and 32 together; then, from the finest
of them and the encoder's at stride 4, as in a feature pyramid, an embedding of each pixel.
"""

import torch
from torch import Tensor, nn

from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.deformable_attention import DeformableAttention
from pipelines.models.transformer import FeedForward, positions

STRIDES = (32, 16, 8)  # coarsest first
FINEST = 4
LAYERS = 6
EXPANSION = 4  # of the feed-forward networks
GROUP = 8  # channels of a norm's group: the paper has 32 groups of 256 channels


class ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int = 1, *, bias: bool = False):
        conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias)
        nn.init.kaiming_uniform_(conv.weight, a=1)
        super().__init__(conv, nn.GroupNorm(outputs // GROUP, outputs))


class Layer(nn.Module):
    """Every cell of every map looks around in all maps, then thinks by itself; norms come after."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention = DeformableAttention(channels, len(STRIDES))
        self.norm = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, EXPANSION * channels)

    def forward(self, cells: Tensor, where: Tensor, places: Tensor, shapes: list[torch.Size]) -> Tensor:
        """cells[b, n, c] of all maps in turn, of the shapes[b, c, h, w]."""
        thought: Tensor = self.mlp(self.norm(cells + self.attention(cells + where, places, cells, shapes)))
        return thought


class PixelDecoder(nn.Module):
    def __init__(self, encoder: encoders.Encoder, channels: int):
        super().__init__()
        self.sources = [encoder.at(stride) for stride in STRIDES]
        self.fine = encoder.at(FINEST)
        self.inputs = nn.ModuleList(ConvNorm(encoder.channels[i], channels, bias=True) for i in self.sources)
        self.level = nn.Parameter(torch.randn(len(STRIDES), channels))
        self.layers = nn.ModuleList(Layer(channels) for _ in range(LAYERS))
        self.lateral = ConvNorm(encoder.channels[self.fine], channels)
        self.fuse = nn.Sequential(ConvNorm(channels, channels, 3), nn.ReLU())
        self.embed = nn.Conv2d(channels, channels, 1)
        nn.init.kaiming_uniform_(self.embed.weight, a=1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """-> the embeddings of pixels[b, c, h / 4, w / 4], and the three maps, coarsest first."""
        maps = [project(features[i]) for project, i in zip(self.inputs, self.sources, strict=True)]
        shapes = [x.shape for x in maps]
        cells = torch.cat([x.flatten(2) for x in maps], dim=2).transpose(1, 2)
        # By the level that they are of, and by their place in it, cells tell each other apart.
        where = [positions(x) + level[:, None, None] for x, level in zip(maps, self.level, strict=True)]
        everywhere = torch.cat([w.flatten(2) for w in where], dim=2).transpose(1, 2)
        places = torch.cat([centers(x) for x in maps])
        for layer in self.layers:
            cells = layer(cells, everywhere, places, shapes)
        parts = cells.transpose(1, 2).split([shape[-2] * shape[-1] for shape in shapes], dim=2)
        scales = [part.unflatten(2, shape[-2:]) for part, shape in zip(parts, shapes, strict=True)]
        fine = self.lateral(features[self.fine])
        return self.embed(self.fuse(fine + resize(scales[-1], fine.shape[-2:]))), scales


def centers(x: Tensor) -> Tensor:
    """float32[h w, 2]: the middle of each cell as (x, y), shares of the map."""
    height, width = x.shape[-2:]
    ys = (torch.arange(height, device=x.device) + 0.5) / height
    xs = (torch.arange(width, device=x.device) + 0.5) / width
    return torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)], dim=-1).flatten(0, 1)
