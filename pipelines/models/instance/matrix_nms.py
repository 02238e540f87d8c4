"""Matrix NMS: Wang, Zhang, Kong, Li, Shen, NeurIPS 2020 (SOLOv2, arXiv 2003.10152, section 3.4).

Soft NMS without its one-by-one order: each mask's score shrinks by what its overlaps with surer masks of its class say,
and an overlap says the less, the likelier it is that the surer mask was itself suppressed. Held against the paper's
formula in a loop.
"""

from typing import Literal

import torch
from torch import Tensor

SIGMA = 2.0  # of the Gaussian kernel exp(-SIGMA iou^2), as the authors' code has it: 1 / 0.5 of the paper's formula
NEVER_ZERO = 1e-6  # of the linear kernel, where a mask is the same as a surer one


def overlaps(masks: Tensor) -> Tensor:
    """bool[n, h, w] -> IoU of each with each, float32[n, n]; masks without a pixel overlap nothing."""
    flat = masks.flatten(1).float()
    with torch.autocast(masks.device.type, enabled=False):  # bfloat16 does not count beyond 256
        common = flat @ flat.T
    areas = flat.sum(dim=1)
    return common / (areas[:, None] + areas - common).clamp(min=1)


def matrix_nms(
    masks: Tensor, labels: Tensor, scores: Tensor, kernel: Literal["gaussian", "linear"] = "gaussian"
) -> Tensor:
    """bool[n, h, w], class of each, scores -> the scores after suppression, in the same order.

    Of equal scores the first is the surer one.
    """
    if not len(scores):
        return scores
    order = scores.argsort(descending=True, stable=True)
    labels = labels[order]
    same = labels[:, None] == labels
    iou = (overlaps(masks[order]) * same).triu(diagonal=1)  # row i, column j: i is the surer one
    own = iou.amax(dim=0)[:, None]  # of each i: its largest overlap with one that is surer still
    if kernel == "gaussian":
        factors = (-SIGMA * (iou**2 - own**2)).exp()
    else:
        factors = (1 - iou) / (1 - own).clamp(min=NEVER_ZERO)
    decayed = torch.empty_like(scores)
    # The first row is the surest mask's: no factor in it is above 1, so those of rows that are less sure never count.
    decayed[order] = scores[order] * factors.amin(dim=0)
    return decayed
