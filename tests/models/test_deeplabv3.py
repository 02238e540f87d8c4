"""DeepLab v3 against torchvision's, with the paper's multi-grid and without the convolution that the paper lacks."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights
from torchvision.models.segmentation import deeplabv3 as torchvision_s
from torchvision.models.segmentation.fcn import FCNHead

from pipelines.models.encoders import Choice
from pipelines.models.semantic.deeplabv3 import DeepLabV3
from tests.models.parity import assert_equal, classes_of, count, on_meta, pour, pour_image_pooling, worn

# Section 3.2: the unit rates (1, 2, 4) times the rate that the output stride gives block4, and ASPP's of section 3.3
GRIDS = {16: (2, 4, 8), 8: (4, 8, 16)}
RATES = {16: (6, 12, 18), 8: (12, 24, 36)}


def rates_of(layers: nn.Module) -> list[int]:
    return [m.dilation[0] for m in layers.modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1]


def reference(name: str, output_stride: int) -> nn.Module:
    backbone = on_meta(getattr(resnet, name), replace_stride_with_dilation=[False, output_stride == 8, True])
    for unit, rate in zip(backbone.layer4, GRIDS[output_stride], strict=True):
        unit.conv2.dilation = unit.conv2.padding = (rate, rate)
    classifier = nn.Sequential(torchvision_s.ASPP(2048, RATES[output_stride]), nn.Conv2d(256, 21, 1))
    layers = IntermediateLayerGetter(backbone, {"layer4": "out", "layer3": "aux"})
    return torchvision_s.DeepLabV3(layers, classifier, FCNHead(1024, 21))


@pytest.mark.parametrize(("name", "output_stride"), [("resnet101", 8), ("resnet50", 16)])
def test_it_is_torchvision_s(name, output_stride):
    ours = worn(DeepLabV3, classes=classes_of(21), encoder=Choice(name), output_stride=output_stride)
    theirs = reference(name, output_stride).eval()
    pour(ours.encoder.body, theirs.backbone)
    pour(ours.auxiliary, theirs.aux_classifier)
    pour(ours.classifier, theirs.classifier[1])
    pour(ours.aspp.branches[:-1], theirs.classifier[0].convs[:-1])
    pour_image_pooling(ours.aspp.branches[-1], theirs.classifier[0].convs[-1])
    pour(ours.aspp.project, theirs.classifier[0].project)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs(images)
        assert_equal(ours(images)["semantic"], expected["out"])
        ours.training = True  # the outputs of training, from norms that evaluate
        assert_equal(ours(images)["auxiliary"], expected["aux"])


def test_the_paper_s_network_has_torchvision_s_parameters():
    ours = on_meta(DeepLabV3, classes=classes_of(21))
    expected = DeepLabV3_ResNet101_Weights.DEFAULT.meta["num_params"]
    expected -= 9 * 256 * 256 + 2 * 256  # a 3x3 convolution behind ASPP, and its norm
    expected -= 256  # image pooling has a bias, not a norm's scale and shift
    assert count(ours) == expected == 60_405_610


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("encoder", ["paper", "resnet18"])
def test_block4_has_the_multi_grid(encoder, output_stride):
    model = on_meta(DeepLabV3, classes=classes_of(2), encoder=Choice(encoder), channels=8, output_stride=output_stride)
    first, second, third = GRIDS[output_stride]
    expected = {"paper": [first, second, third], "resnet18": [first, first, second, second]}
    assert rates_of(model.encoder.body.layer4) == expected[encoder]


@pytest.mark.parametrize("output_stride", [8, 16])
def test_other_encoders_keep_their_rates(output_stride):
    model = on_meta(DeepLabV3, classes=classes_of(2), encoder=Choice("regnetx_002"), output_stride=output_stride)
    ours = model.encoder.body
    timm_s = on_meta(
        timm.create_model, model_name="regnetx_002", features_only=True, output_stride=output_stride, in_chans=3
    )
    assert rates_of(ours) == rates_of(timm_s)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_aspp_reaches_as_far_at_every_stride(output_stride):
    encoder, seen = Choice("test_resnet"), []
    model = DeepLabV3(classes=classes_of(3), encoder=encoder, channels=8, output_stride=output_stride)
    assert model.stride == output_stride
    assert [branch[0].dilation[0] for branch in model.aspp.branches[1:-1]] == [*RATES[output_stride]]
    model.aspp.register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].shape[-2:])))
    assert {k: v.shape for k, v in model(torch.randn(2, 3, 64, 80)).items()} == {
        "semantic": (2, 3, 64, 80),
        "auxiliary": (2, 3, 64, 80),
    }
    assert seen == [(64 // output_stride, 80 // output_stride)]
    assert set(model.eval()(torch.randn(2, 3, 64, 80))) == {"semantic"}
