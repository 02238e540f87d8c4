"""The losses beside other people's, value and gradient, where those mean the same.

What is ignored is removed before, since each of these libraries has its own idea of it; all classes occur, since each
has its own idea of those that do not.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss, GeneralizedDiceLoss
from monai.losses.focal_loss import FocalLoss
from monai.losses.tversky import TverskyLoss
from segmentation_models_pytorch import losses as smp
from torch import Tensor

from pipelines import losses
from pipelines.data.schema import IGNORE
from pipelines.targets import Targets

CLASSES = 5
WEIGHTS = torch.tensor([0.3, 2.0, 0.1, 1.7, 4.0])
Reference = Callable[[Tensor, Tensor], Tensor]  # logits[1, c, 1, n], labels[1, 1, n] -> scalar


def monai(loss: Any) -> Reference:
    return lambda logits, labels: loss(logits, labels.unsqueeze(1))


def focal(gamma: float, weights: Tensor | None) -> Reference:
    """MONAI's "sum" is over the classes, of means over the pixels; they are not divided by the weights."""
    loss = FocalLoss(use_softmax=True, to_onehot_y=True, gamma=gamma, weight=weights, reduction="sum")
    return lambda logits, labels: (
        loss(logits, labels.unsqueeze(1)) / (weights[labels].mean() if weights is not None else 1)
    )


def binary(weights: Tensor | None) -> Reference:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        truth = F.one_hot(labels, CLASSES).movedim(-1, 1).float()
        pixel = torch.ones_like(labels, dtype=torch.float32) if weights is None else weights[labels]
        weighed = smp.SoftBCEWithLogitsLoss(weight=pixel.unsqueeze(1).expand_as(logits))(logits, truth)
        return weighed / pixel.mean()

    return loss


def focal_tversky(gamma: float) -> Reference:
    """One class at a time: of several, smp raises the mean."""
    each = [smp.TverskyLoss("multiclass", classes=[c], alpha=0.3, beta=0.7, gamma=gamma) for c in range(CLASSES)]
    return lambda logits, labels: torch.stack([loss(logits, labels) for loss in each]).mean()


MONAI = {"softmax": True, "to_onehot_y": True, "batch": True, "smooth_nr": 0.0, "smooth_dr": 0.0}
PAIRS = [
    ("cross_entropy", {"label_smoothing": 0.1}, None, torch.nn.CrossEntropyLoss(label_smoothing=0.1)),
    ("cross_entropy", {"label_smoothing": 0.1}, WEIGHTS, torch.nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.1)),
    ("binary_cross_entropy", {}, None, binary(None)),
    ("binary_cross_entropy", {}, WEIGHTS, binary(WEIGHTS)),
    ("focal", {"gamma": 2.0}, None, focal(2.0, None)),
    ("focal", {"gamma": 1.5}, WEIGHTS, focal(1.5, WEIGHTS)),
    ("dice", {"squared": False}, None, smp.DiceLoss("multiclass")),
    ("dice", {"squared": False}, None, monai(DiceLoss(**MONAI))),
    ("dice", {"squared": True}, None, monai(DiceLoss(**MONAI, squared_pred=True))),
    ("generalized_dice", {}, None, monai(GeneralizedDiceLoss(**MONAI))),
    ("jaccard", {}, None, smp.JaccardLoss("multiclass")),
    ("jaccard", {}, None, monai(DiceLoss(**MONAI, jaccard=True))),
    ("lovasz", {}, None, smp.LovaszLoss("multiclass")),
    ("tversky", {"alpha": 0.3, "beta": 0.7}, None, smp.TverskyLoss("multiclass", alpha=0.3, beta=0.7)),
    ("tversky", {"alpha": 0.3, "beta": 0.7}, None, monai(TverskyLoss(**MONAI, alpha=0.3, beta=0.7))),
    ("focal_tversky", {"alpha": 0.3, "beta": 0.7, "gamma": 0.75}, None, focal_tversky(0.75)),
]


@pytest.mark.parametrize(("name", "options", "weights", "reference"), PAIRS)
@pytest.mark.parametrize("scale", [1.0, 8.0])
def test_ours_is_theirs(name, options, weights, reference, scale):
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(2, CLASSES, 24, 20, generator=generator)).requires_grad_()
    labels = torch.randint(0, CLASSES, (2, 24, 20), generator=generator)
    labels[0, :5], labels[1, :, 3] = IGNORE, IGNORE

    given = {} if weights is None else {"inverse_frequency": weights.tolist()}
    options = {"weight": 1.0, "class_weights": next(iter(given), "none"), **options}
    ours = losses.build({name: options}, given)(logits, Targets(semantic=labels, instances=[]))
    (ours_gradient,) = torch.autograd.grad(ours, logits)

    known = labels != IGNORE
    theirs = reference(logits.movedim(1, 0)[:, known][None, :, None], labels[known][None, None])
    (their_gradient,) = torch.autograd.grad(theirs, logits)

    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    # To the largest component: smp's Lovász takes differences of numbers near 1 in float32, which costs it digits.
    bound = {"lovasz": 1e-4}.get(name, 1e-5) * their_gradient.abs().max().item()
    np.testing.assert_allclose(ours_gradient, their_gradient, rtol=0, atol=bound)
