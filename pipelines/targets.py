"""The truth of a batch as tensors: loading makes them, models learn from them."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceTargets:
    """The segments of one image, as tensors."""

    masks: Tensor  # bool[n, h, w]
    labels: Tensor  # int64[n]: class ids
    boxes: Tensor  # float32[n, 4]: x1, y1, x2, y2 with x2 > x1 and y2 > y1
    iscrowd: Tensor  # bool[n]

    def to(self, device: torch.device) -> "InstanceTargets":
        return InstanceTargets(**{k: getattr(self, k).to(device, non_blocking=True) for k in self.__slots__})


@dataclass(frozen=True, kw_only=True, slots=True)
class Targets:
    """The truth of one batch."""

    semantic: Tensor  # int64[b, h, w]: class ids, IGNORE where nothing is known
    border: Tensor | None = None  # float32[b, h, w]: U-Net's weight of each pixel, where a loss asks for it
    instances: list[InstanceTargets]  # one per image; no instance is an empty one

    def to(self, device: torch.device) -> "Targets":
        return Targets(
            semantic=self.semantic.to(device, non_blocking=True),
            border=None if self.border is None else self.border.to(device, non_blocking=True),
            instances=[i.to(device) for i in self.instances],
        )
