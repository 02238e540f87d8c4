"""PSPNet against torchvision's dilated ResNet and segmentation_models_pytorch's pyramid."""

import pytest
import torch
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPModule
from torch import nn
from torchvision.models import ResNet101_Weights, resnet50
from torchvision.models.segmentation.fcn import FCNHead

from pipelines.models.blocks import resize
from pipelines.models.encoders import Choice
from pipelines.models.semantic.pspnet import PSPNet, PyramidPooling
from tests.models.parity import assert_equal, classes_of, count, on_meta, pour, worn


def small(**options) -> PSPNet:
    return PSPNet(classes=classes_of(3), encoder=Choice("test_resnet"), channels=16, **options)


def test_the_paper_s_network_has_the_paper_s_parameters():
    ours = on_meta(PSPNet, classes=classes_of(21))
    encoder = ResNet101_Weights.DEFAULT.meta["num_params"] - (2048 * 1000 + 1000)  # torchvision's, without classifier
    pyramid = 4 * 2048 * 512 + 3 * 2 * 512 + 512  # N = 4 levels of 1/N of the channels; norms, but a bias at 1x1
    head = 9 * 4096 * 512 + 2 * 512 + 512 * 21 + 21
    auxiliary = 9 * 1024 * 256 + 2 * 256 + 256 * 21 + 21
    assert count(ours) == encoder + pyramid + head + auxiliary == 67_949_418
    assert [m.p for m in ours.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.1]  # the authors'; head and auxiliary


def test_it_is_torchvision_s_and_smp_s_parts_in_the_paper_s_order():
    ours = worn(PSPNet, classes=classes_of(5), encoder=Choice("resnet50"), channels=32)
    backbone = on_meta(resnet50, replace_stride_with_dilation=[False, True, True]).eval()
    backbone.fc = nn.Identity()
    pyramid, auxiliary = on_meta(PSPModule, in_channels=2048).eval(), FCNHead(1024, 5).eval()
    head = nn.Sequential(nn.Conv2d(4096, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
    head.append(nn.Conv2d(32, 5, 1)).eval()
    pour(ours.encoder.body, backbone)
    pour(ours.auxiliary, auxiliary)
    pour(ours.pyramid, pyramid)
    pour(ours.head, head)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        x = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
        inner = backbone.layer3(backbone.layer2(backbone.layer1(x)))
        x = backbone.layer4(inner)
        # smp interpolates from corner to corner and puts the features last; the paper's figure has them first.
        x = torch.cat([x, *(resize(block.pool(x), x.shape[-2:]) for block in pyramid.blocks)], dim=1)
        assert_equal(ours(images)["semantic"], resize(head(x), (64, 96)))
        assert_equal(ours.auxiliary(ours.encoder(images)[-2]), auxiliary(inner))


def test_each_level_has_the_means_of_its_parts():
    torch.manual_seed(0)
    pyramid = PyramidPooling(8).eval()
    cells = torch.rand(1, 8, 6, 6)  # of 2 x 2 pixels each
    joined = pyramid(cells.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3))
    assert joined.shape == (1, 16, 12, 12)
    for level, bins in zip(pyramid.levels[1:], (2, 3, 6), strict=True):
        size = 6 // bins
        means = cells.unfold(2, size, size).unfold(3, size, size).mean(dim=(4, 5))
        torch.testing.assert_close(level(joined[:, :8]), level[1](means))


@pytest.mark.parametrize(("output_stride", "size"), [(8, (8, 10)), (16, (4, 5))])
def test_the_output_stride_is_that_of_the_pyramid(output_stride, size):
    model, seen = small(output_stride=output_stride), []
    assert model.stride == output_stride
    model.pyramid.register_forward_hook(lambda _, given, out: seen.append(tuple(given[0].shape[-2:])))
    assert model(torch.zeros(2, 3, 64, 80))["semantic"].shape == (2, 3, 64, 80)
    assert seen == [size]


def test_the_auxiliary_head_sees_the_stage_before_the_last_and_only_trains():
    model = small()
    outputs = model(torch.randn(2, 3, 64, 80))
    assert outputs["auxiliary"].shape == (2, 3, 64, 80)
    outputs["auxiliary"].sum().backward()
    taught = {name for name, p in model.encoder.body.named_parameters() if p.grad is not None}
    assert any(name.startswith("layer3") for name in taught)
    assert not any(name.startswith("layer4") for name in taught)
    assert set(model.eval()(torch.randn(2, 3, 64, 80))) == {"semantic"}
