"""Losses on each pixel's class: one table, any weighted sum.

All of them take logits[b, c, h, w] and the batch's targets, compute in float32 whatever the logits' type, leave out
pixels labelled IGNORE, and are exactly 0 with zero gradients where no pixel is left, or none that weighs anything.

Losses of each pixel alone can weigh its class: they are then the weighted mean, as PyTorch's cross entropy is, that is
divided by the sum of the weights of the labelled pixels and not by their number.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.losses.binary_cross_entropy import binary_cross_entropy
from pipelines.losses.cross_entropy import border_cross_entropy, cross_entropy
from pipelines.losses.dice import dice, generalized_dice
from pipelines.losses.focal import focal
from pipelines.losses.jaccard import jaccard
from pipelines.losses.lovasz import lovasz
from pipelines.losses.ohem import ohem
from pipelines.losses.tversky import focal_tversky, tversky
from pipelines.targets import Targets

# loss(logits, targets, **its options); those of each pixel alone also take class_weights: float32[c] or None
LOSSES: dict[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "border_cross_entropy": border_cross_entropy,
    "ohem": ohem,
    "focal": focal,
    "dice": dice,
    "generalized_dice": generalized_dice,
    "jaccard": jaccard,
    "lovasz": lovasz,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
}
# Not the loss's own: its weight in the sum, whose class weights it takes, and how the loader draws the border map.
AROUND = ("weight", "class_weights", "border_weight", "sigma")


class WeightedSum(nn.Module):
    """logits, targets -> the sum of weight x loss; a module, so that the class weights go where the model goes."""

    def __init__(
        self,
        terms: Sequence[tuple[float, Callable[..., Tensor], str]],
        class_weights: Mapping[str, Sequence[float]],
    ):
        """`terms`: weight, loss, and the name of the class weights that it takes, or "none"."""
        super().__init__()
        self.terms = tuple(terms)
        for scheme, weights in class_weights.items():
            self.register_buffer(scheme, torch.tensor(weights, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, targets: Targets) -> Tensor:
        return torch.stack([w * loss(logits, targets, **self._taken(scheme)) for w, loss, scheme in self.terms]).sum()

    def _taken(self, scheme: str) -> dict[str, Tensor]:
        return {} if scheme == "none" else {"class_weights": self.get_buffer(scheme)}


def build(
    weighted: Mapping[str, Mapping[str, Any]], class_weights: Mapping[str, Sequence[float]] | None = None
) -> WeightedSum:
    """name -> {"weight": ..., and the loss's own options} -> their sum; `class_weights` by the name of their scheme."""
    if not weighted:
        raise ValueError("a sum needs at least one loss")
    terms = []
    for name, given in weighted.items():
        options = {k: v for k, v in given.items() if k not in AROUND}
        terms.append((given["weight"], partial(LOSSES[name], **options), given.get("class_weights", "none")))
    schemes, known = {scheme for *_, scheme in terms} - {"none"}, class_weights or {}
    if missing := sorted(schemes - set(known)):
        raise ValueError(f"a loss takes the class weights {', '.join(missing)}, and they were not given")
    return WeightedSum(terms, {scheme: known[scheme] for scheme in sorted(schemes)})
