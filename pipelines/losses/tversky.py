"""Tversky (Salehi et al. 2017, arXiv 1706.05721): Dice with weights `alpha` of false positives and `beta` of false
negatives; 1/2 and 1/2 is Dice, 1 and 1 is Jaccard. Focal Tversky (Abraham & Khan 2018, arXiv 1810.07842) raises each
class's loss to the power `gamma`, the paper's 1 / gamma, and is here the mean over the classes where that sums."""

import torch
from torch import Tensor

from pipelines.losses.regions import Regions, mean_of_present
from pipelines.targets import Targets

# Below every denominator that matters: without a weight of false negatives, nothing else keeps it from 0.
LEAST = 1e-6


def tversky(logits: Tensor, targets: Targets, *, alpha: float, beta: float) -> Tensor:
    return mean_of_present(*_losses(logits, targets, alpha, beta))


def focal_tversky(logits: Tensor, targets: Targets, *, alpha: float, beta: float, gamma: float) -> Tensor:
    losses, pixels = _losses(logits, targets, alpha, beta)
    # At 0 the slope of a power below 1 is infinite, and rounding can go below it: nothing is left to learn there.
    wrong = losses > 0
    return mean_of_present(torch.where(wrong, losses.where(wrong, 1) ** gamma, 0), pixels)


def _losses(logits: Tensor, targets: Targets, alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    """1 - score and the number of pixels, of each class."""
    regions = Regions.of(logits, targets)
    overlap, pixels = regions.overlap(), regions.pixels()
    score = overlap / (overlap + alpha * (regions.area() - overlap) + beta * (pixels - overlap)).clamp(min=LEAST)
    return 1 - score, pixels
