"""DeepLab v3+: its ASPP against torchvision's with equal weights, its strides against the paper's."""

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3

from pipelines.errors import ConfigError
from pipelines.models.blocks import ASPP, ConvNormAct, SeparableConv, resize
from pipelines.models.contract import Classes
from pipelines.models.semantic.deeplabv3plus import DeepLabV3Plus

TWO = Classes(things=(1,), stuff=(0,))
RATES = (6, 12, 18)


def copy_branch(ours: nn.Module, theirs: nn.Module) -> None:
    """Our separable convolution as a dense one: pointwise times depthwise, for positive weights and features, where
    the ReLU between them does nothing; their norms are fresh, and pass everything but for an epsilon."""
    if isinstance(ours, ConvNormAct):
        theirs[0].weight.copy_(ours[0].weight)
        return
    depth, point = ours[0][0].weight, ours[1][0].weight
    depth.abs_()
    scale = 1 / (1 + ours[0][1].eps) ** 0.5  # the norm between the two
    theirs[0].weight.copy_(point * depth[:, 0][None] * scale)


def test_aspp_is_torchvision_s():
    torch.manual_seed(0)
    ours, theirs = ASPP(8, 6, rates=RATES).eval(), deeplabv3.ASPP(8, RATES, 6).eval()
    with torch.no_grad():
        for mine, other in zip(ours.branches[:-1], theirs.convs[:-1], strict=True):
            copy_branch(mine, other)
        pooling, norm = theirs.convs[-1][1], theirs.convs[-1][2]
        pooling.weight.copy_(ours.branches[-1].mix.weight * (1 + norm.eps) ** 0.5)
        norm.bias.copy_(ours.branches[-1].mix.bias)
        theirs.project[0].weight.copy_(ours.project[0].weight)
        features = torch.rand(2, 8, 40, 50)
        torch.testing.assert_close(ours(features), theirs(features))


def test_image_pooling_learns_from_a_single_image():
    aspp = ASPP(4, 4, rates=RATES)
    aspp(torch.randn(1, 4, 1, 2)).sum().backward()
    assert all(p.grad.isfinite().all() for p in aspp.parameters())
    assert aspp.eval()(torch.randn(1, 4, 1, 1)).shape == (1, 4, 1, 1)


def test_a_separable_convolution_costs_what_it_promises():
    weights = sum(p.numel() for p in SeparableConv(64, 32).parameters() if p.ndim == 4)
    assert weights == 64 * 9 + 64 * 32


def test_resizing_takes_pixels_as_areas():
    coarse = torch.arange(4.0).view(1, 1, 1, 4)
    fine = resize(coarse, (1, 8)).flatten()
    assert fine.tolist() == [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3]


def test_strides_and_widths_are_the_paper_s():
    model = DeepLabV3Plus(classes=TWO, encoder="test_resnet", weights="none", channels=32)
    seen = {}
    model.aspp.register_forward_hook(lambda _, given, out: seen.update(high=given[0].shape[-2:]))
    model.low_level.register_forward_hook(lambda _, given, out: seen.update(low=tuple(out.shape[1:])))
    assert model(torch.zeros(2, 3, 64, 80))["semantic"].shape == (2, 2, 64, 80)
    assert seen == {"high": (4, 5), "low": (48, 16, 20)}


def test_an_encoder_that_cannot_be_dilated_is_refused():
    with pytest.raises(ConfigError, match=r"'vgg11' cannot serve as a feature extractor at output stride 16"):
        DeepLabV3Plus(classes=TWO, encoder="vgg11", weights="none", channels=32)
