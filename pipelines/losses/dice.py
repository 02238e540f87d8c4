"""Soft Dice (Milletari et al. 2016, arXiv 1606.04797; in the unsquared form of Sudre et al. 2017, arXiv 1707.03237).

Pixels are counted over the whole batch, and the mean is over the classes that occur in it: an absent class would
score 1 at best by the smoothing constant alone, and its gradient would drown those that can be learned from. A class
that occurs has at least one pixel in the denominator, so no smoothing is needed either.
"""

import torch
from torch import Tensor

from pipelines.data.schema import IGNORE


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    classes = torch.arange(logits.shape[1], device=labels.device).view(1, -1, 1, 1)
    truth = labels.unsqueeze(1) == classes
    p = logits.float().softmax(dim=1) * (labels != IGNORE).unsqueeze(1)
    pixels = truth.sum(dim=(0, 2, 3))
    overlap = (p * truth).sum(dim=(0, 2, 3))
    # 1 is the least that a class which occurs can have here: it only keeps 0 / 0 out of the others.
    score = 2 * overlap / (p.sum(dim=(0, 2, 3)) + pixels).clamp(min=1)
    present = pixels > 0
    return ((1 - score) * present).sum() / present.sum().clamp(min=1)
