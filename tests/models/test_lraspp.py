"""LR-ASPP against torchvision's, with equal weights."""

import torch
from torch import nn
from torchvision.models.segmentation import LRASPP_MobileNet_V3_Large_Weights, lraspp_mobilenet_v3_large

from pipelines.models.semantic.lraspp import LRASPP
from tests.models.parity import classes_of
from tests.models.recorded import fill, noise


def test_the_paper_s_network_has_torchvision_s_parameters():
    with torch.device("meta"):
        ours = LRASPP(classes=classes_of(21))
    published = LRASPP_MobileNet_V3_Large_Weights.DEFAULT.meta["num_params"]
    assert sum(p.numel() for p in ours.parameters()) == published == 3_221_538


def test_it_is_torchvision_s():
    ours = fill(LRASPP(classes=classes_of(5))).eval()
    theirs = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5).double().eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    # Three things are not weights. torchvision's norms have another epsilon; its finer features leave stride 8 after
    # the first of three blocks; and it dilates the convolution that it no longer strides. The authors' code and timm
    # take the last of the three, and dilate from the next convolution on.
    for norm in theirs.backbone.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.eps = 1e-5
    assert theirs.backbone.return_layers == {"4": "low", "16": "high"}
    theirs.backbone.return_layers = {"6": "low", "16": "high"}
    unstrided = theirs.backbone["13"].block[1][0]
    assert (unstrided.dilation, unstrided.padding) == ((2, 2), (4, 4))
    unstrided.dilation, unstrided.padding = (1, 1), (2, 2)
    images = noise("images", (2, 3, 64, 96))
    with torch.no_grad():
        torch.testing.assert_close(ours(images)["semantic"], theirs(images)["out"])


def test_strides_and_widths_are_the_paper_s():
    model, seen = LRASPP(classes=classes_of(3)), {}
    model.head.register_forward_hook(lambda _, given, out: seen.update(given=given, out=out))
    model(torch.zeros(2, 3, 64, 96))
    assert [tuple(x.shape[1:]) for x in seen["given"]] == [(40, 8, 12), (960, 4, 6)]
    assert tuple(seen["out"].shape) == (2, 3, 8, 12)  # classified before it is scaled up


def test_the_last_stage_sees_through_dilated_convolutions():
    model = LRASPP(classes=classes_of(3))
    wide = {m.in_channels: m.dilation for m in model.encoder.modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert wide[960] == (2, 2)
    assert all(dilation == (1, 1) for channels, dilation in wide.items() if channels != 960)
