"""What the losses on regions have in common: probabilities and truth as soft sets of pixels, one pair per class.

Pixels are counted over the whole batch, and means are over the classes that occur in it: an absent class would score 1
at best by the smoothing constant alone, and its gradient would drown those that can be learned from. A class that
occurs has at least one pixel, so no smoothing is needed either.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.targets import Targets

PIXELS = (0, 2, 3)  # the dimensions that are summed over


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """Both are 0 in each class where a pixel is ignored."""

    predicted: Tensor  # float32[b, c, h, w]: the softmax
    truth: Tensor  # bool[b, c, h, w]

    @classmethod
    def of(cls, logits: Tensor, targets: Targets) -> "Regions":
        labels = targets.semantic
        classes = torch.arange(logits.shape[1], device=labels.device).view(1, -1, 1, 1)
        return cls(
            predicted=logits.float().softmax(dim=1) * (labels != IGNORE).unsqueeze(1),
            truth=labels.unsqueeze(1) == classes,
        )

    def overlap(self) -> Tensor:
        """float32[c]"""
        return (self.predicted * self.truth).sum(dim=PIXELS)

    def area(self) -> Tensor:
        """float32[c], as it is predicted."""
        return self.predicted.sum(dim=PIXELS)

    def pixels(self) -> Tensor:
        """int64[c], as it is."""
        return self.truth.sum(dim=PIXELS)


def mean_of_present(losses: Tensor, pixels: Tensor) -> Tensor:
    """float32[c], int64[c] -> the mean over the classes that have pixels, 0 where none has."""
    present = pixels > 0
    return (losses * present).sum() / present.sum().clamp(min=1)
