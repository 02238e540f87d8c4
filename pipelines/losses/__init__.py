"""Losses on each pixel's class: one table, any weighted sum.

All of them take logits[b, c, h, w] and labels int64[b, h, w], compute in float32 whatever the logits' type, leave
out pixels labelled IGNORE, and are exactly 0 with zero gradients where no pixel is left.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.losses.cross_entropy import cross_entropy
from pipelines.losses.dice import dice
from pipelines.losses.focal import focal
from pipelines.targets import Targets

LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "dice": dice, "focal": focal}


class WeightedSum(nn.Module):
    """logits, targets -> the sum of weight x loss."""

    def __init__(self, terms: Sequence[tuple[float, Callable[[Tensor, Tensor], Tensor]]]):
        super().__init__()
        self.terms = tuple(terms)

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        return torch.stack([weight * loss(logits, targets.semantic) for weight, loss in self.terms]).sum()


def build(
    weighted: Mapping[str, Mapping[str, Any]], class_weights: Mapping[str, Sequence[float]] | None = None
) -> WeightedSum:
    """name -> {"weight": ..., and the loss's own options} -> their sum; `class_weights` by the name of their scheme."""
    if not weighted:
        raise ValueError("a sum needs at least one loss")
    terms = []
    for name, given in weighted.items():
        options = {k: v for k, v in given.items() if k not in ("weight", "class_weights", "squared")}
        terms.append((given["weight"], partial(LOSSES[name], **options)))
    return WeightedSum(terms)
