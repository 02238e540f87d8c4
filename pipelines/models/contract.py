"""What every model is to the rest of the house: images in, named raw outputs, named loss terms, predictions.

The loop, the evaluator and the registry know this page and no architecture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from pipelines.data.prediction import Prediction
from pipelines.targets import InstanceTargets, Targets

__all__ = [
    "Classes",
    "InstanceTargets",
    "ModelSpec",
    "Outputs",
    "PixelLoss",
    "Prediction",
    "SegmentationModel",
    "Targets",
]

Task = Literal["semantic", "instance", "panoptic"]
Outputs = dict[str, Tensor]
# logits[b, classes, h, w], labels int64[b, h, w] with IGNORE -> scalar: the weighted sum that params.yaml names
PixelLoss = Callable[[Tensor, Tensor], Tensor]


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

    stride: int  # height and width of a batch are multiples of this: the loader pads to it

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

    # build(classes=, encoder=, weights=, channels=) -> model
    build: Callable[..., SegmentationModel]
    task: Task
    paper: str
