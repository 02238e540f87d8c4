"""Cross entropy, the mean over the labelled pixels; label smoothing as in Szegedy et al. 2016 (arXiv 1512.00567).

With class weights it is PyTorch's own: each logarithm has its class's weight, in the part that smoothing spreads over
all classes too, and the sum is divided by the sum of the weights of the labelled pixels.
"""

import torch.nn.functional as F
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.losses.means import pixel_weights, ratio
from pipelines.targets import Targets


def cross_entropy(
    logits: Tensor, targets: Targets, *, class_weights: Tensor | None = None, label_smoothing: float
) -> Tensor:
    # The sum and a weight of our own: PyTorch's mean over no pixels is NaN.
    total = F.cross_entropy(
        logits.float(),
        targets.semantic,
        weight=class_weights,
        ignore_index=IGNORE,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    return ratio(total, pixel_weights(targets.semantic, class_weights).sum())


def border_cross_entropy(logits: Tensor, targets: Targets, *, class_weights: Tensor | None = None) -> Tensor:
    """Weighted by the map of U-Net (Ronneberger et al. 2015, arXiv 1505.04597, eq. 1) that the loader made.

    The paper sums. Here the sum is divided by what the pixels would weigh without the map: its borders then weigh more
    than they did, and all else what it did, however much border an image has.
    """
    if targets.border is None:
        raise ValueError("border_cross_entropy needs targets.border: give the loader's Augment a border")
    entropy = F.cross_entropy(logits.float(), targets.semantic, ignore_index=IGNORE, reduction="none")
    weights = pixel_weights(targets.semantic, class_weights)
    return ratio((targets.border * weights * entropy).sum(), weights.sum())
