"""Losses on each pixel's class: one table, any weighted sum.

All of them take logits[b, c, h, w] and labels int64[b, h, w], compute in float32 whatever the logits' type, leave
out pixels labelled IGNORE, and are exactly 0 with zero gradients where no pixel is left.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from pipelines.losses.cross_entropy import cross_entropy
from pipelines.losses.dice import dice
from pipelines.losses.focal import focal

LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "dice": dice, "focal": focal}


@dataclass(frozen=True, slots=True)
class WeightedSum:
    """logits, labels -> the sum of weight x loss."""

    terms: tuple[tuple[float, Callable[[Tensor, Tensor], Tensor]], ...]

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = [weight * loss(logits, labels) for weight, loss in self.terms]
        return sum(losses[1:], losses[0])


def build(weighted: Mapping[str, Mapping[str, float]]) -> WeightedSum:
    """name -> {"weight": ..., and the loss's own options} -> their sum."""
    if not weighted:
        raise ValueError("a sum needs at least one loss")
    terms = []
    for name, given in weighted.items():
        options = {k: v for k, v in given.items() if k != "weight"}
        terms.append((given["weight"], partial(LOSSES[name], **options)))
    return WeightedSum(tuple(terms))
