"""Mix Transformer, SegFormer's encoder: Xie, Wang, Yu, Anandkumar, Alvarez, Luo, NeurIPS 2021 (arXiv 2105.15203).

Four stages at strides 4 to 32. Each embeds overlapping patches, then alternates self-attention, whose keys and values
come from a coarser map, and Mix-FFN, whose depthwise 3x3 convolution tells positions apart: there is no positional
encoding, so any size will do. mit_b0 to mit_b5 differ in width and depth alone.

Names follow the published weights, so that those fit once they are a .safetensors file. Held against
segmentation_models_pytorch's encoder with equal weights.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models import encoders

# The width of the first stage and the blocks of all four (the paper's table 7); the rest is the same for all.
DEPTHS: dict[str, tuple[int, tuple[int, ...]]] = {
    "mit_b0": (32, (2, 2, 2, 2)),
    "mit_b1": (64, (2, 2, 2, 2)),
    "mit_b2": (64, (3, 4, 6, 3)),
    "mit_b3": (64, (3, 4, 18, 3)),
    "mit_b4": (64, (3, 8, 27, 3)),
    "mit_b5": (64, (3, 6, 40, 3)),
}
HEADS = (1, 2, 5, 8)  # all of equal width, so that these are the stages' widths, too, in units of the first
SEQUENCE_REDUCTION = (8, 4, 2, 1)
EXPANSION = 4
DROP_PATH = 0.1  # of the last block; it grows to that from 0


def channels_last(x_bchw: Tensor) -> Tensor:
    """[b, c, h, w] -> [b, h, w, c], a view: linear layers and norms work on the last axis."""
    return x_bchw.permute(0, 2, 3, 1)


def channels_first(x_bhwc: Tensor) -> Tensor:
    return x_bhwc.permute(0, 3, 1, 2)


class OverlapPatchEmbed(nn.Module):
    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int):
        super().__init__()
        self.proj = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x_bchw: Tensor) -> Tensor:
        embedded: Tensor = self.norm(channels_last(self.proj(x_bchw)))
        return embedded


class EfficientAttention(nn.Module):
    """Every pixel asks; only one of reduction x reduction is asked."""

    def __init__(self, channels: int, *, heads: int, reduction: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        coarser = reduction > 1
        self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction) if coarser else nn.Identity()
        self.norm = nn.LayerNorm(channels) if coarser else nn.Identity()

    def forward(self, x_bhwc: Tensor) -> Tensor:
        coarse = self.norm(channels_last(self.sr(channels_first(x_bhwc))))
        q, (k, v) = self.q(x_bhwc), self.kv(coarse).chunk(2, dim=-1)
        mixed = F.scaled_dot_product_attention(self.split(q), self.split(k), self.split(v))
        projected: Tensor = self.proj(mixed.transpose(1, 2).reshape(x_bhwc.shape))
        return projected

    def split(self, x_bhwc: Tensor) -> Tensor:
        """-> [b, head, pixel, channel of the head]"""
        heads: Tensor = x_bhwc.flatten(1, 2).unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)


class MixFFN(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        inner = EXPANSION * channels
        self.fc1 = nn.Linear(channels, inner)
        # Nested as in the published weights.
        self.dwconv = nn.Sequential(OrderedDict(dwconv=nn.Conv2d(inner, inner, 3, padding=1, groups=inner)))
        self.fc2 = nn.Linear(inner, channels)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        x = channels_last(self.dwconv(channels_first(self.fc1(x_bhwc))))
        mixed: Tensor = self.fc2(F.gelu(x))
        return mixed


class Block(nn.Module):
    def __init__(self, channels: int, *, heads: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=1e-6)
        self.attn = EfficientAttention(channels, heads=heads, reduction=reduction)
        self.norm2 = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MixFFN(channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_bhwc: Tensor) -> Tensor:
        x_bhwc = x_bhwc + self.drop_path(self.attn(self.norm1(x_bhwc)))
        mixed: Tensor = x_bhwc + self.drop_path(self.mlp(self.norm2(x_bhwc)))
        return mixed


class MixTransformer(nn.ModuleDict):
    """image[b, c, h, w] -> four feature maps, finest first."""

    def __init__(self, width: int, depths: tuple[int, ...], in_channels: int):
        super().__init__()
        self.widths = [width * heads for heads in HEADS]
        rates = torch.linspace(0, DROP_PATH, sum(depths), device="cpu").tolist()
        x = in_channels
        for n, (heads, reduction, depth) in enumerate(zip(HEADS, SEQUENCE_REDUCTION, depths, strict=True), start=1):
            c = width * heads
            self[f"patch_embed{n}"] = OverlapPatchEmbed(x, c, kernel=7 if n == 1 else 3, stride=4 if n == 1 else 2)
            drops = [rates.pop(0) for _ in range(depth)]
            self[f"block{n}"] = nn.Sequential(
                *(Block(c, heads=heads, reduction=reduction, drop_path=drop) for drop in drops)
            )
            self[f"norm{n}"] = nn.LayerNorm(c, eps=1e-6)
            x = c
        self.apply(initialise)

    def forward(self, x_bchw: Tensor) -> list[Tensor]:
        features = []
        for n in range(1, len(HEADS) + 1):
            x_bhwc = self[f"block{n}"](self[f"patch_embed{n}"](x_bchw))
            x_bchw = channels_first(self[f"norm{n}"](x_bhwc))
            features.append(x_bchw)
        return features


def initialise(module: nn.Module) -> None:
    """As in the authors' code: narrow normals for linear layers, He's by the fan-out of a group for convolutions."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.weight[:, 0].numel() / module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def build(choice: encoders.Choice) -> encoders.Encoder:
    """One of mit_b0 to mit_b5; `weights`: none, or the path of a .safetensors file with the published names."""
    name = choice.name
    if choice.weights == "imagenet":
        raise ConfigError(
            f"model.weights: the ImageNet weights of '{name}' cannot be had here: they were published as a pickle, "
            "and for research only",
            do="name a .safetensors file of them, set model.weights: none, or choose an encoder of timm",
        )
    width, depths = DEPTHS[name]
    body = MixTransformer(width, depths, choice.in_channels)
    encoders.load(dict(body.named_children()), name, choice)
    return encoders.Encoder(name, body, body.widths, [4, 8, 16, 32])
