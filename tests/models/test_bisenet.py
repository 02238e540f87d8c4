"""BiSeNet against the authors' code: its layers, counted, and its outputs, recorded with equal weights."""

import pytest
import torch
from torchvision.models import ResNet18_Weights

from pipelines.models.encoders import Choice
from pipelines.models.semantic.bisenet import BiSeNet
from tests.models.parity import classes_of
from tests.models.recorded import figures, fill, noise


def small(**options) -> BiSeNet:
    return BiSeNet(classes=classes_of(3), encoder=Choice("test_resnet"), channels=16, **options)


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """One without a bias, and its norm."""
    return kernel * kernel * inputs * outputs + 2 * outputs


def test_the_authors_network_has_the_authors_parameters():
    with torch.device("meta"):
        ours = BiSeNet(classes=classes_of(19))
    encoder = ResNet18_Weights.DEFAULT.meta["num_params"] - (512 * 1000 + 1000)  # torchvision's, without classifier
    spatial = conv(3, 64, 7) + 2 * conv(64, 64, 3) + conv(64, 128, 1)
    tail = conv(512, 128, 1)
    refinements = conv(512, 128, 3) + conv(256, 128, 3) + 2 * conv(128, 128, 1) + 2 * conv(128, 128, 3)
    fusion = conv(256, 256, 1) + 2 * 256 * 256
    heads = conv(256, 64, 3) + (64 * 19 + 19) + 2 * (conv(128, 256, 3) + 256 * 19 + 19)
    # The last figure is that of github.com/ycszen/TorchSeg, cityscapes.bisenet.R18, with a plain ResNet-18.
    counted = encoder + spatial + tail + refinements + fusion + heads
    assert sum(p.numel() for p in ours.parameters()) == counted == 13_494_777


def test_it_gives_what_the_authors_network_gives():
    # Of the same code with the weights of `fill`, in training and float64; its interpolations without aligned corners.
    ours = fill(BiSeNet(classes=classes_of(3)))
    found = ours(noise("images", (3, 3, 64, 96)))
    recorded = {
        "semantic": [-0.689618704, 0.623414014, 1.621946872, 0.667790981],
        "auxiliary": [1.237608421, 0.974192088, -2.922756824, 1.169938778],
        "auxiliary_2": [-0.27267574, -0.278794356, 1.811110513, 0.712932897],
    }
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert figures(found[name]) == pytest.approx(values, abs=1e-7)


def test_paths_and_heads_have_the_paper_s_strides():
    model, sizes = small(), {}
    for name in ("spatial_path", "fusion", "head", "auxiliary", "auxiliary_2"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, given, out, name=name: sizes.update({name: tuple(out.shape[-2:])}))
    model(torch.randn(2, 3, 64, 96))
    eighth, sixteenth = (8, 12), (4, 6)
    assert sizes.pop("auxiliary") == sixteenth
    assert set(sizes.values()) == {eighth}


def test_auxiliary_heads_cost_nothing_once_trained():
    model = small().eval()
    for name in ("auxiliary", "auxiliary_2"):
        del model._modules[name]
    assert model(torch.randn(1, 3, 64, 64)).keys() == {"semantic"}


def test_the_tail_tells_every_pixel_of_the_whole_image():
    """A pixel of the context path's end depends on the image's far corner, which its convolutions do not reach."""
    torch.manual_seed(0)
    model = small().eval()
    image = torch.randn(1, 3, 64, 1024, requires_grad=True)
    model(image)["semantic"][0, :, 0, 0].sum().backward()
    far = image.grad[..., -8:].abs().max()
    assert far > 0
    model.context_path.tail[2].weight.data.zero_()
    for attention in (model.context_path.arm_32, model.context_path.arm_16):
        attention.attention[2].weight.data.zero_()
    model.fusion.attention[3].weight.data.zero_()
    image.grad = None
    model(image)["semantic"][0, :, 0, 0].sum().backward()
    assert image.grad[..., -8:].abs().max() == 0
