"""DeepLab v2 against torchvision's dilated ResNet and the pyramid's definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet101_Weights, resnet50

from pipelines.models.encoders import Choice
from pipelines.models.semantic.deeplabv2 import DeepLabV2, SummedPyramid, scaled_to
from tests.models.parity import assert_equal, classes_of, count, on_meta, pour, worn

RATES = (6, 12, 18, 24)


def small(**options) -> DeepLabV2:
    return DeepLabV2(classes=classes_of(3), encoder=Choice("test_resnet"), **options)


def test_the_paper_s_network_has_the_paper_s_parameters():
    ours = on_meta(DeepLabV2, classes=classes_of(21))
    encoder = ResNet101_Weights.DEFAULT.meta["num_params"] - (2048 * 1000 + 1000)  # torchvision's, without classifier
    assert count(ours) == encoder + 4 * (9 * 2048 * 21 + 21) == 44_048_532


def test_on_vgg_each_branch_has_three_layers():
    ours = on_meta(DeepLabV2, classes=classes_of(21), encoder=Choice("vgg16"), channels=1024)
    branch = (9 * 512 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 21 + 21)
    assert count(ours) == 14_714_688 + 4 * branch  # VGG-16's thirteen convolutions
    assert [branch[0].dilation[0] for branch in ours.aspp.classifiers] == [*RATES]


def test_it_is_torchvision_s_resnet_at_three_scales_fused_by_maximum():
    ours = worn(DeepLabV2, classes=classes_of(5), encoder=Choice("resnet50"))
    backbone = on_meta(resnet50, replace_stride_with_dilation=[False, True, True]).eval()
    backbone.fc = backbone.avgpool = nn.Identity()
    pour(ours.encoder.body, backbone)

    def theirs(images: Tensor, scale: float) -> Tensor:
        x = F.interpolate(images, scale_factor=scale, mode="bilinear")
        x = backbone(x).unflatten(1, (2048, x.shape[-2] // 8, x.shape[-1] // 8))
        x = sum(
            F.conv2d(x, conv.weight, conv.bias, padding=rate, dilation=rate)
            for conv, rate in zip(ours.aspp.classifiers, RATES, strict=True)
        )
        return F.interpolate(x, images.shape[-2:], mode="bilinear")

    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        scores = torch.stack([theirs(images, scale) for scale in (0.5, 0.75, 1.0)])
        assert (scores.argmax(dim=0).unique() == torch.arange(3)).all()
        assert_equal(ours(images)["semantic"], scores.max(dim=0).values)


def test_the_pyramid_is_its_definition():
    torch.manual_seed(0)
    pyramid = SummedPyramid(2, None, 3).double()
    features = torch.randn(1, 2, 9, 33, dtype=torch.float64)
    padded = np.pad(features[0].numpy(), ((0, 0), (24, 24), (24, 24)))
    expected = np.zeros((3, 9, 33))
    for conv, rate in zip(pyramid.classifiers, RATES, strict=True):
        weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
        for y, x in np.ndindex(9, 33):
            seen = padded[:, y + 24 - rate : y + 25 + rate : rate, x + 24 - rate : x + 25 + rate : rate]
            expected[:, y, x] += (weight * seen).sum(axis=(1, 2, 3)) + bias
    np.testing.assert_allclose(pyramid(features)[0].detach().numpy(), expected, rtol=1e-10)


def test_each_scale_is_auxiliary_in_training():
    model = small()
    outputs = model(torch.randn(2, 3, 64, 80))
    assert list(outputs) == ["semantic", "auxiliary", "auxiliary_2", "auxiliary_3"]
    assert all(logits.shape == (2, 3, 64, 80) for logits in outputs.values())
    scales = torch.stack([logits for name, logits in outputs.items() if name != "semantic"])
    assert torch.equal(outputs["semantic"], scales.max(dim=0).values)
    assert set(model.eval()(torch.randn(2, 3, 64, 80))) == {"semantic"}


def test_a_single_scale_has_nothing_to_help_it():
    assert set(small(scales=(0.75,))(torch.randn(2, 3, 64, 64))) == {"semantic"}


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.25, 1 / 3])
def test_scaled_images_fit_the_stride(scale):
    for length in range(8, 800, 8):
        scaled = scaled_to(length, scale)
        assert scaled % 8 == 0
        assert scale * length <= scaled + 1e-9 < scale * length + 8
