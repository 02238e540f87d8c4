"""Weights from a formula, so that an author's network could be given the same ones, and its figures be written down."""

import zlib

import torch
from torch import Tensor, nn


def noise(name: str, shape: tuple[int, ...]) -> Tensor:
    """float64 in [-0.5, 0.5), each name another sequence."""
    places = torch.arange(torch.Size(shape).numel(), dtype=torch.float64) + zlib.crc32(name.encode()) % 10007
    drawn = torch.sin(12.9898 * places) * 43758.5453
    return (drawn - drawn.floor() - 0.5).view(shape)


def fill(model: nn.Module) -> nn.Module:
    """On the CPU and in float64, whatever it was built on: linear layers and convolutions of He's variance, norms that
    are not the identity."""
    model.to_empty(device="cpu").double()
    for name, value in model.state_dict().items():
        if value.ndim > 1:
            value.copy_(noise(name, value.shape) * (24 / value[0].numel()) ** 0.5)
        elif value.is_floating_point():
            value.copy_(noise(name, value.shape) + name.endswith(("weight", "running_var")))
        else:
            value.zero_()
    return model


def figures(logits: Tensor) -> list[float]:
    """A pixel of each of three images of 64x96, one of them a corner, and what all of them come to."""
    pixels = [logits[0, 0, 0, 0], logits[1, 1, 17, 40], logits[2, 2, -1, -1], logits.abs().mean()]
    return [pixel.item() for pixel in pixels]
