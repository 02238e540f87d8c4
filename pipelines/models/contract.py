"""What every model is to the rest of the house: images in, named raw outputs, named loss terms, predictions.

The loop, the evaluator and the registry know this page and no architecture.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor, nn

from pipelines.data.prediction import Prediction
from pipelines.pixels import Pixels
from pipelines.targets import InstanceTargets, Targets

__all__ = [
    "Classes",
    "FittedModel",
    "InstanceTargets",
    "ModelSpec",
    "Outputs",
    "PixelLoss",
    "Pixels",
    "Prediction",
    "SegmentationModel",
    "Targets",
]

Task = Literal["semantic", "instance", "panoptic"]
Outputs = dict[str, Tensor]
# logits[b, classes, h, w] at the targets' size -> scalar: the weighted sum that params.yaml names
PixelLoss = Callable[[Tensor, Targets], Tensor]


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
    context: int = 0  # pixels around an image that it mirrors, to see a border around what it predicts
    pixels: Pixels | None = None  # what normalised its images; set by whoever builds it, for those that ask for colours

    def forward(self, images: Tensor) -> Outputs:
        """float[b, 3, h, w], normalised -> raw outputs, whatever the two methods below need."""
        raise NotImplementedError

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        """Named float32 scalars, balanced as in the paper where `loss.terms` is 1, finite also for an image without
        anything to learn from."""
        raise NotImplementedError

    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        """One prediction per image, cut to its (height, width): the batch was padded on the right and below."""
        raise NotImplementedError


class FittedModel(SegmentationModel):
    """One without weights: a few numbers, kept as buffers, are taken from some training images, and no gradient."""

    def fit(self, samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        """(RGB uint8[h, w, 3], class ids uint8[h, w] with IGNORE) of each: the same samples, the same model."""
        raise NotImplementedError

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        raise TypeError(f"{type(self).__name__} is fitted, not trained")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSpec:
    """One row of the MODELS table."""

    # build(classes=, encoder=encoders.Choice, channels=, **the section of params.yaml with the model's name)
    build: Callable[..., SegmentationModel]
    task: Task
    paper: str
