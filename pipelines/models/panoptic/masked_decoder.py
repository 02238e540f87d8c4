"""The Transformer decoder of Mask2Former (arXiv 2112.01527, section 3.2): queries that see what they claim.

Learned queries pass through layers of masked attention to one scale of the image (the coarsest, the next, the finest,
and again), attention to each other, and a feed-forward network. Masked: a query attends only to where the mask that it
gave before this layer is. Each state of the queries, the first too, is read as classes and mask embeddings.

Deviation: the masks that steer attention are products with the shrunken embeddings of pixels, where the authors shrink
the products: the same numbers (both steps are linear), and less work.
"""

import torch
from torch import Tensor, nn

from pipelines.models import position
from pipelines.models.blocks import resize

HEADS = 8
EXPANSION = 8  # of the feed-forward networks
SCALES = 3


class Attention(nn.Module):
    """Multi-head attention with its residual and its norm behind."""

    def __init__(self, channels: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, HEADS, batch_first=True)
        self.norm = nn.LayerNorm(channels)
        nn.init.xavier_uniform_(self.attention.out_proj.weight)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor | None = None) -> Tensor:
        seen, _ = self.attention(query, key, value, attn_mask=hidden, need_weights=False)
        normed: Tensor = self.norm(x + seen)
        return normed


class Layer(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.cross = Attention(channels)
        self.own = Attention(channels)
        inner = EXPANSION * channels
        self.mlp = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))
        self.norm = nn.LayerNorm(channels)
        for layer in self.mlp[::2]:
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor, names: Tensor, cells: Tensor, where: Tensor, hidden: Tensor) -> Tensor:
        """Queries x[b, q, c] and what names each; cells[b, n, c] and where they are; hidden bool[b, q, n]."""
        x = self.cross(x, x + names, cells + where, cells, hidden.repeat_interleave(HEADS, dim=0))
        x = self.own(x, x + names, x + names, x)
        thought: Tensor = self.norm(x + self.mlp(x))
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
        cells = [(x + level[:, None, None]).flatten(2).transpose(1, 2) for x, level in zip(scales, self.level, strict=True)]
        where = [position.encoded(x).flatten(2).transpose(1, 2) for x in scales]
        small = [resize(pixels, x.shape[-2:]).flatten(2).detach() for x in scales]
        x = self.start.expand(len(pixels), -1, -1)
        states = [self.norm(x)]
        for i, layer in enumerate(self.layers):
            scale = i % SCALES
            hidden = outside(self.embed(states[-1]).detach() @ small[scale])
            x = layer(x, self.names, cells[scale], where[scale], hidden)
            states.append(self.norm(x))
        read = torch.stack(states if self.training else states[-1:], dim=1)
        return self.classify(read), self.embed(read)


def outside(logits: Tensor) -> Tensor:
    """bool[b, q, n]: where a query must not look. One whose mask is empty may look everywhere."""
    hidden = logits < 0
    return hidden & ~hidden.all(dim=-1, keepdim=True)
