"""Online hard example mining (Shrivastava et al. 2016, arXiv 1604.03540; of pixels: Wu et al. 2016, arXiv 1605.06885):
cross entropy of the pixels that the model does not know yet.

Those are the pixels whose own class has a probability under `threshold`; where they are fewer than `min_kept` of the
labelled pixels of the batch, that many with the least probability, and all that tie with the last of them. Which they
are is decided by the probability alone; class weights then weigh the mean over them. Each process of a group looks
into its own share of the batch.
"""

import math

import torch.nn.functional as F
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.losses.means import weighted_mean
from pipelines.targets import Targets


def ohem(
    logits: Tensor, targets: Targets, *, class_weights: Tensor | None = None, threshold: float, min_kept: float
) -> Tensor:
    labels = targets.semantic
    entropy = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none")  # -log(probability)
    known = labels != IGNORE
    hardest = entropy.detach().where(known, -1).flatten().sort(descending=True).values
    # Taken by an index that stays on the device: a number would make the host wait for it.
    least = (min_kept * known.sum()).ceil().long().clamp(min=1)
    kept = (entropy > -math.log(threshold)) | (entropy >= hardest.index_select(0, least.view(1) - 1))
    return weighted_mean(entropy, labels.where(kept, IGNORE), class_weights)
