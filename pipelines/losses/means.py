"""The mean over labelled pixels, in which each may weigh what its class weighs."""

import torch
from torch import Tensor

from pipelines.data.schema import IGNORE


def pixel_weights(labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """int64[b, h, w] -> float32[b, h, w]: the weight of each pixel's class, or 1; 0 for what is ignored."""
    known = labels != IGNORE
    if class_weights is None:
        return known.float()
    return class_weights[labels.where(known, 0)] * known


def ratio(total: Tensor, weight: Tensor) -> Tensor:
    """total / weight; where nothing weighs anything, 0 with gradients of 0."""
    some = weight > 0
    return torch.where(some, total / weight.where(some, 1), 0)


def weighted_mean(values: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Of a value per pixel: the sum of weight x value over the sum of the weights, as PyTorch's cross entropy has it,
    so that the scale of the class weights plays no part."""
    weights = pixel_weights(labels, class_weights)
    return ratio((values * weights).sum(), weights.sum())
