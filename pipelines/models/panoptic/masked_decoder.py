"""The Transformer decoder of Mask2Former (arXiv 2112.01527, section 3.2): queries that see what they claim.

Learned queries pass through layers of masked attention to one scale of the image (the coarsest, the next, the finest,
and again), attention to each other, and a feed-forward network. Masked: a query attends only to where the mask that it
gave before this layer is. Each state of the queries, the first too, is read as classes and mask embeddings.

Deviation: the masks that steer attention are products with the shrunken embeddings of pixels, where the authors shrink
the products: the same numbers (both steps are linear), and less work.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.models.blocks import resize
from pipelines.models.transformer import FeedForward, positions

HEADS = 8
EXPANSION = 8  # of the feed-forward networks
SCALES = 3


class Attention(nn.Module):
    """Multi-head attention with its residual and its norm behind. PyTorch's own would want the mask copied for each
    head."""

    def __init__(self, channels: int):
        super().__init__()
        self.query, self.key, self.value, self.project = (nn.Linear(channels, channels) for _ in range(4))
        self.norm = nn.LayerNorm(channels)
        for layer, gain in ((self.query, 0.5), (self.key, 0.5), (self.value, 0.5), (self.project, 1.0)):
            nn.init.xavier_uniform_(layer.weight, gain**0.5)  # the first three as one matrix, as the authors have it
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, where: Tensor, cells: Tensor, places: Tensor, seen: Tensor | None = None) -> Tensor:
        """x[b, q, c] at `where` attends to cells[b, n, c] at `places`; seen bool[b, 1, q, n]: where it may."""
        query, key, value = self.query(x + where), self.key(cells + places), self.value(cells)
        mixed = F.scaled_dot_product_attention(split(query), split(key), split(value), attn_mask=seen)
        normed: Tensor = self.norm(x + self.project(mixed.transpose(1, 2).flatten(2)))
        return normed


def split(x: Tensor) -> Tensor:
    """[b, n, c] -> [b, head, n, channel of the head]"""
    heads: Tensor = x.unflatten(-1, (HEADS, -1))
    return heads.transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.cross = Attention(channels)
        self.own = Attention(channels)
        self.mlp = FeedForward(channels, EXPANSION * channels)

    def forward(self, x: Tensor, names: Tensor, cells: Tensor, places: Tensor, seen: Tensor) -> Tensor:
        """Queries x[b, q, c] and what tells them apart; cells[b, n, c] and where they are; seen bool[b, 1, q, n]."""
        x = self.cross(x, names, cells, places, seen)
        thought: Tensor = self.mlp(self.own(x, names, x, names))
        return thought


class MaskedDecoder(nn.Module):
    def __init__(self, channels: int, *, queries: int, layers: int, classes: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(queries, channels))
        self.names = nn.Parameter(torch.randn(queries, channels))
        self.level = nn.Parameter(torch.randn(SCALES, channels))
        self.layers = nn.ModuleList(Layer(channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)
        self.classify = nn.Linear(channels, classes + 1)  # the last: no object
        self.embed = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU(),
            nn.Linear(channels, channels),
        )  # fmt: skip

    def forward(self, scales: list[Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Three maps and the embeddings of pixels -> class logits[b, layers + 1, q, classes + 1] and mask
        embeddings[b, layers + 1, q, c]; in evaluation the last state's alone, as a layer of one."""
        cells = [
            (x + level[:, None, None]).flatten(2).transpose(1, 2) for x, level in zip(scales, self.level, strict=True)
        ]
        places = [positions(x).flatten(2).transpose(1, 2) for x in scales]
        small = [resize(pixels, x.shape[-2:]).flatten(2).detach() for x in scales]
        x = self.start.expand(pixels.shape[0], -1, -1)  # not len: a number there is fixed when exported
        states = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            scale = i % SCALES
            seen = inside(self.embed(states[-1]).detach() @ small[scale])[:, None]
            x = layer(x, self.names, cells[scale], places[scale], seen)
            states.append(self.norm(x))
        read = torch.stack(states if self.training else states[-1:], dim=1)
        return self.classify(read), self.embed(read)


def inside(logits: Tensor) -> Tensor:
    """bool[b, q, n]: where a query may look: in its mask, or everywhere if that is empty."""
    mask = logits >= 0
    return mask | ~mask.any(dim=-1, keepdim=True)
