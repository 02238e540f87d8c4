"""What every model is to the rest of the house: images in, named raw outputs, named loss terms, predictions.

The loop, the evaluator and the registry know this page and no architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipelines.data.prediction import Prediction

Task = Literal["semantic", "instance", "panoptic"]
Outputs = dict[str, Tensor]
# logits[b, classes, h, w], labels int64[b, h, w] with IGNORE -> scalar: the weighted sum that params.yaml names
PixelLoss = Callable[[Tensor, Tensor], Tensor]


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
    instances: list[InstanceTargets]  # one per image; no instance is an empty one

    def to(self, device: torch.device) -> "Targets":
        return Targets(
            semantic=self.semantic.to(device, non_blocking=True), instances=[i.to(device) for i in self.instances]
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Classes:
    """What a model must know of the class table."""

    things: tuple[int, ...]
    stuff: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.things) + len(self.stuff)


class SegmentationModel(nn.Module):
    """Base of all architectures; each names its `stride` and says how outputs become losses and predictions."""

    stride: int  # height and width of a batch are multiples of this: `pad_to_stride` below sees to it

    def forward(self, images: Tensor) -> Outputs:
        """float[b, 3, h, w], normalised -> raw outputs, whatever the two methods below need."""
        raise NotImplementedError

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        """Named float32 scalars, unweighted, finite also for an image without anything to learn from."""
        raise NotImplementedError

    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        """One prediction per image, cut to its (height, width): the batch was padded on the right and below."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One row of the MODELS table."""

    # build(classes=, encoder=, pretrained=, channels=) -> model
    build: Callable[..., SegmentationModel]
    task: Task
    paper: str
