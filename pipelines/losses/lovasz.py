"""Lovász-softmax (Berman et al. 2018, arXiv 1705.08790): the Jaccard loss of the errors, made continuous by its Lovász
extension; of all pixels of the batch, the mean over the classes that occur in it."""

import torch
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.losses.regions import Regions, mean_of_present
from pipelines.targets import Targets


def lovasz(logits: Tensor, targets: Targets) -> Tensor:
    regions = Regions.of(logits, targets)
    known = (targets.semantic != IGNORE).flatten()
    losses = []
    for p, truth in zip(regions.predicted.unbind(dim=1), regions.truth.unbind(dim=1), strict=True):
        errors = (truth.float() - p).abs().flatten()
        losses.append((errors * gradient(errors.detach().where(known, -1), truth.flatten())).sum())
    return mean_of_present(torch.stack(losses), regions.pixels())


def gradient(errors: Tensor, truth: Tensor) -> Tensor:
    """float32[n], bool[n] -> float32[n]: what each error weighs, by the paper's algorithm 1.

    As the pixels become wrong one after the other, the largest error first, each makes the Jaccard loss grow: of the
    class's own it takes 1 / union, another's adds to the union. In closed form, since differences of two losses
    would be lost in float32 in a large batch. The ignored come last, with errors of 0, and so add nothing.
    """
    order = errors.argsort(descending=True)
    own = truth[order]
    missed, added = own.cumsum(0), (~own).cumsum(0)
    union, left = truth.sum() + added, truth.sum() - missed
    growth = torch.where(own, 1 / union, left / (union * (union - 1)).clamp(min=1))
    return torch.zeros_like(errors).scatter(0, order, growth)
