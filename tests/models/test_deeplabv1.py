"""DeepLab v1 against torchvision's VGG-16, dilated by hand, and the paper's table 2."""

from itertools import pairwise

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import nn

from pipelines.models.encoders import Choice
from pipelines.models.semantic.deeplabv1 import DeepLabV1, LargeFOV
from tests.models.parity import assert_equal, classes_of, count, on_meta, pour, worn

# Of torchvision's VGG-16: where pool4 is, pool5, and the convolutions between them
LAYERS = {"vgg16": (23, 30, (24, 26, 28)), "vgg16_bn": (33, 43, (34, 37, 40))}


def dilated(name: str) -> nn.Sequential:
    pool4, pool5, conv5 = LAYERS[name]
    features = getattr(torchvision.models, name)(init_weights=False).features
    for pool in (pool4, pool5):
        assert isinstance(features[pool], nn.MaxPool2d)
        features[pool] = nn.MaxPool2d(3, stride=1, padding=1)
    for conv in conv5:
        features[conv].dilation = features[conv].padding = (2, 2)
    return features


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_torchvision_s_vgg_with_holes(name):
    ours = worn(DeepLabV1, classes=classes_of(5), encoder=Choice(name), channels=32)
    features = on_meta(dilated, name=name).eval()
    pour(ours.encoder, features)
    fc6, fc7, fc8 = (layer for layer in ours.classifier if isinstance(layer, nn.Conv2d))
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        x = features(images)
        assert x.shape == (2, 512, 8, 12)
        x = F.conv2d(x, fc6.weight, fc6.bias, padding=12, dilation=12).relu()
        x = F.conv2d(F.conv2d(x, fc7.weight, fc7.bias).relu(), fc8.weight, fc8.bias)
        x = F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False)
        assert_equal(ours(images)["semantic"], x)


def test_the_paper_s_network_has_the_paper_s_parameters():
    ours = on_meta(DeepLabV1, classes=classes_of(21))
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    vgg = sum(9 * i * o + o for i, o in pairwise(widths))
    expected = vgg + (9 * 512 * 1024 + 1024) + (1024 * 1024 + 1024) + (1024 * 21 + 21)
    assert count(ours) == expected
    assert round(expected / 1e6, 1) == 20.5  # table 2, "DeepLab-CRF-LargeFOV"
    assert [m.p for m in ours.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]  # VGG's, behind fc6 and fc7


def test_fc6_looks_twelve_cells_away():
    x = torch.randn(1, 4, 30, 30, requires_grad=True)
    LargeFOV(4, 8, 2, rate=12).eval()(x)[0, :, 14, 15].sum().backward()
    assert x.grad.abs().sum(dim=(0, 1)).nonzero().tolist() == [[y, x] for y in (2, 14, 26) for x in (3, 15, 27)]


def test_weights_of_timm_s_vgg_fit(tmp_path):
    torch.manual_seed(0)
    layers = on_meta(timm.create_model, model_name="vgg11").features.state_dict(prefix="features.")
    theirs = {key: torch.randn(value.shape) for key, value in layers.items()}
    save_file(theirs, tmp_path / "vgg11.safetensors")
    ours = DeepLabV1(classes=classes_of(2), encoder=Choice("vgg11", str(tmp_path / "vgg11.safetensors")), channels=8)
    found = ours.encoder.body.state_dict()
    assert len(found) == len(theirs) == 16
    assert all(torch.equal(found[key.replace(".", "_", 1)], value) for key, value in theirs.items())


@pytest.mark.parametrize("encoder", ["test_resnet", "test_efficientnet"])
def test_other_encoders_end_at_stride_8_too(encoder):
    model, seen = DeepLabV1(classes=classes_of(2), encoder=Choice(encoder), channels=8), []
    model.classifier.register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].shape[-2:])))
    assert model(torch.zeros(2, 3, 64, 40))["semantic"].shape == (2, 2, 64, 40)
    assert seen == [(8, 5)]
