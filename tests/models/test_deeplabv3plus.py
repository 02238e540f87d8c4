"""DeepLab v3+: its ASPP against torchvision's and all of it against segmentation_models_pytorch's parts with equal
weights; its strides, parameters and multiply-adds against the paper's."""

from itertools import pairwise

import pytest
import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder, SeparableConv2d
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.segmentation import deeplabv3

from pipelines.errors import ConfigError
from pipelines.models.blocks import ASPP, ConvNormAct, SeparableConv, resize
from pipelines.models.contract import Classes
from pipelines.models.encoders import Choice
from pipelines.models.semantic.deeplabv3plus import DeepLabV3Plus
from tests.models.parity import assert_equal, classes_of, count, on_meta, pour, pour_image_pooling, worn

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
        pour_image_pooling(ours.branches[-1], theirs.convs[-1])
        theirs.project[0].weight.copy_(ours.project[0].weight)
        features = torch.rand(2, 8, 40, 50)
        torch.testing.assert_close(ours(features), theirs(features))


def pour_separable(ours: SeparableConv, theirs: nn.Sequential) -> None:
    """Theirs has no norm and no ReLU in the middle: as above, ours does nothing there."""
    depth, point = ours
    depth[1].reset_parameters()
    depth[1].reset_running_stats()
    depth[0].weight.abs_()
    convs = theirs[0]
    convs[0].weight.copy_(depth[0].weight)
    convs[1].weight.copy_(point[0].weight / (1 + depth[1].eps) ** 0.5)
    pour(point[1], theirs[1])


@pytest.mark.parametrize(("output_stride", "rates"), [(16, (6, 12, 18)), (8, (12, 24, 36))])
@torch.no_grad()
def test_it_is_smp_s_parts_in_the_paper_s_order(output_stride, rates):
    options = {"encoder": Choice("test_resnet"), "channels": 24, "output_stride": output_stride}
    ours = worn(DeepLabV3Plus, classes=classes_of(5), **options)
    theirs = DeepLabV3PlusDecoder([3, *ours.encoder.channels], 5, 24, rates, output_stride, True, 0.5)
    theirs.aspp = theirs.aspp[0]  # the paper has no convolution between ASPP and the decoder
    theirs.up = nn.Upsample(scale_factor=output_stride // 4, mode="bilinear")
    again = nn.Sequential(SeparableConv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
    theirs.block2 = nn.Sequential(theirs.block2, again)  # smp refines once, the paper twice
    theirs.eval()
    pour(ours.aspp.branches[0], theirs.aspp.convs[0])
    for mine, other in zip(ours.aspp.branches[1:-1], theirs.aspp.convs[1:-1], strict=True):
        pour_separable(mine, other)
    pour_image_pooling(ours.aspp.branches[-1], theirs.aspp.convs[-1])
    pour(ours.aspp.project, theirs.aspp.project)
    pour(ours.low_level, theirs.block1)
    for mine, other in zip(ours.decoder[:2], theirs.block2, strict=True):
        pour_separable(mine, other)
    images = torch.randn(2, 3, 64, 96)
    logits = ours.decoder[-1](theirs([images, *ours.encoder(images)]))
    assert_equal(ours(images)["semantic"], nn.functional.interpolate(logits, scale_factor=4, mode="bilinear"))


def separable(inputs: int, outputs: int) -> int:
    """Weights of a depthwise convolution, its norm, a pointwise one and its norm."""
    return 9 * inputs + 2 * inputs + inputs * outputs + 2 * outputs


def test_the_paper_s_network_has_the_paper_s_parameters():
    # Figure 4, block by block: the outputs of three separable convolutions, and a 1x1 with a norm beside them
    entry = [(64, 128, 128, 128), (128, 256, 256, 256), (256, 728, 728, 728), (728, 728, 1024, 1024)]
    xception = (9 * 3 * 32 + 64) + (9 * 32 * 64 + 128)
    for widths in entry:
        xception += sum(separable(i, o) for i, o in pairwise(widths))
        xception += widths[0] * widths[-1] + 2 * widths[-1]
    xception += 16 * 3 * separable(728, 728)
    xception += separable(1024, 1536) + separable(1536, 1536) + separable(1536, 2048)
    pooled, plain, project = 2048 * 256 + 256, 2048 * 256 + 512, 5 * 256 * 256 + 512
    aspp = plain + 3 * separable(2048, 256) + pooled + project
    decoder = (256 * 48 + 96) + separable(304, 256) + separable(256, 256) + (256 * 21 + 21)
    assert count(on_meta(DeepLabV3Plus, classes=classes_of(21))) == xception + aspp + decoder


@pytest.mark.parametrize(("size", "classes", "billions"), [((513, 513), 21, 54.17), ((1025, 2049), 19, 418.64)])
def test_the_paper_s_network_costs_what_the_authors_say(size, classes, billions):
    """Multiply-adds at output stride 16: table 5 (Xception, decoder, separable), and the authors' list of models."""
    model = on_meta(DeepLabV3Plus, classes=classes_of(classes)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, *size, device="meta"))
    assert counter.get_total_flops() / 2 / 1e9 == pytest.approx(billions, rel=0.003)


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


@pytest.mark.parametrize(("output_stride", "high"), [(16, (4, 5)), (8, (8, 10))])
def test_strides_and_widths_are_the_paper_s(output_stride, high):
    model = DeepLabV3Plus(classes=TWO, encoder=Choice("test_resnet"), channels=32, output_stride=output_stride)
    assert model.stride == output_stride
    seen = {}
    model.aspp.register_forward_hook(lambda _, given, out: seen.update(high=given[0].shape[-2:]))
    model.low_level.register_forward_hook(lambda _, given, out: seen.update(low=tuple(out.shape[1:])))
    assert model(torch.zeros(2, 3, 64, 80))["semantic"].shape == (2, 2, 64, 80)
    assert seen == {"high": high, "low": (48, 16, 20)}


def test_an_encoder_that_cannot_be_dilated_is_refused():
    with pytest.raises(ConfigError, match=r"'vgg11' cannot serve as a feature extractor at output stride 16"):
        DeepLabV3Plus(classes=TWO, encoder=Choice("vgg11"), channels=32)
