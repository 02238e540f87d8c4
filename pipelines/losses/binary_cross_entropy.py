"""Binary cross entropy: each class against all others by a sigmoid of its own, as if the classes did not compete.

The mean is over the classes and the labelled pixels. With class weights a pixel weighs what its own class weighs, in
all of its terms, as in the other losses here: the weights then balance each class's own pixels against the others'.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.losses.means import weighted_mean
from pipelines.targets import Targets


def binary_cross_entropy(logits: Tensor, targets: Targets, *, class_weights: Tensor | None = None) -> Tensor:
    classes = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    truth = (targets.semantic.unsqueeze(1) == classes).float()
    entropy = F.binary_cross_entropy_with_logits(logits.float(), truth, reduction="none").mean(dim=1)
    return weighted_mean(entropy, targets.semantic, class_weights)
