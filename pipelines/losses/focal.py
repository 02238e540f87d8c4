"""Focal loss (Lin et al. 2017, arXiv 1708.02002) over a softmax: (1 - p)^gamma x cross entropy.

The mean is over the labelled pixels: every pixel has a class here, so the paper's number of positives is their
number. The class weights are the paper's alpha, but for the mean, which is over what the pixels weigh.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.losses.means import weighted_mean
from pipelines.targets import Targets


def focal(logits: Tensor, targets: Targets, *, class_weights: Tensor | None = None, gamma: float) -> Tensor:
    logits, labels = logits.float(), targets.semantic
    entropy = F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
    # log(1 - p) from the other classes' p: 1 - p itself rounds to 0 for a confident pixel, where the power's slope is
    # infinite for gamma < 1.
    true = labels.where(labels != IGNORE, 0).unsqueeze(1)
    others = logits.log_softmax(dim=1).scatter(1, true, torch.finfo(logits.dtype).min)
    doubt = others.logsumexp(dim=1)
    return weighted_mean((gamma * doubt).exp() * entropy, labels, class_weights)
