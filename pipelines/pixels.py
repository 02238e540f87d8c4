"""Between the pixels of an image and what a network sees of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Pixels:
    """The mean and the deviation of a dataset's channels, 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Pixels":
        # A channel that is the same everywhere (two-channel microscopy stored as RGB) must not be divided by 0.
        return cls(tuple(mean), tuple(max(s, 1 / 255) for s in std))

    def normalise(self, images: Tensor) -> Tensor:
        """uint8[b, 3, h, w] -> float32 of zero mean and unit deviation, on the images' device.

        Channels last in memory: convolutions are a fifth faster so on CPU, and tensor cores want it. Whole rows at
        once: three channels alone are too short for vector instructions.
        """
        height, width = images.shape[-2:]
        scale = images.new_tensor([255.0 * s for s in self.std], dtype=torch.float32).repeat(width)
        shift = images.new_tensor(
            [m / s for m, s in zip(self.mean, self.std, strict=True)], dtype=torch.float32
        ).repeat(width)
        rows: Tensor = images.permute(0, 2, 3, 1).flatten(2).float().div_(scale).sub_(shift)
        return rows.reshape(len(images), height, width, -1).permute(0, 3, 1, 2)

    def restore(self, images: Tensor) -> Tensor:
        """The opposite: float32, 0..255, whole numbers but for rounding."""
        scale = images.new_tensor([255.0 * s for s in self.std]).view(-1, 1, 1)
        shift = images.new_tensor([255.0 * m for m in self.mean]).view(-1, 1, 1)
        restored: Tensor = images.float() * scale + shift
        return restored
