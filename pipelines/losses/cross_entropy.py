"""Cross entropy, the mean over the labelled pixels; label smoothing as in Szegedy et al. 2016 (arXiv 1512.00567)."""

import torch.nn.functional as F
from torch import Tensor

from pipelines.data.schema import IGNORE


def cross_entropy(logits: Tensor, labels: Tensor, *, label_smoothing: float) -> Tensor:
    # The sum and a count of our own: PyTorch's mean over no pixels is NaN.
    total = F.cross_entropy(
        logits.float(), labels, ignore_index=IGNORE, label_smoothing=label_smoothing, reduction="sum"
    )
    return total / (labels != IGNORE).sum().clamp(min=1)
