"""U-Net against the paper's layer table, MONAI's with equal weights, and its two forms against each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.networks.nets import basic_unet

from pipelines.data.schema import IGNORE
from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, Targets
from pipelines.models.encoders import Choice
from pipelines.models.semantic.unet import UNet, mirror

TWO = Classes(things=(1,), stuff=(0,))
RELU_AND_BATCH_NORM = {"act": "relu", "norm": "batch", "bias": False}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize(
    ("channels", "in_channels", "count"),
    [
        (256, 1, 31_030_658),  # figure 1 of arXiv 1505.04597, summed below
        (256, 3, 31_031_810),
        (128, 1, 7_759_521 + 33),  # the authors of U-Net++ of a U-Net of half the width, with one class less
    ],
)
def test_the_paper_s_network_has_the_paper_s_parameters(channels, in_channels, count, padded):
    # Layer by layer: (inputs, outputs) of the 3x3 convolutions, then the 2x2 up-convolutions, then the 1x1.
    a, b, c, d, e = (channels * times // 4 for times in (1, 2, 4, 8, 16))
    down = [(in_channels, a), (a, a), (a, b), (b, b), (b, c), (c, c), (c, d), (d, d)]
    up = [(e, d), (d, d), (d, c), (c, c), (c, b), (b, b), (b, a), (a, a)]
    threes = [*down, (d, e), (e, e), *up]
    raised = [(e, d), (d, c), (c, b), (b, a)]
    with_biases = sum(9 * i * o + o for i, o in threes) + sum(4 * i * o + o for i, o in raised) + (a * 2 + 2)
    assert with_biases == count
    # Ours has batch norm's scale and shift where the paper has a bias.
    with torch.device("meta"):
        ours = UNet(classes=TWO, channels=channels, encoder=Choice(in_channels=in_channels), padded=padded)
    assert sum(p.numel() for p in ours.parameters()) == with_biases + sum(o for _, o in threes)


def test_the_paper_s_network_sees_what_its_geometry_says():
    """The rows that a pixel's score depends on: two 3x3 convolutions on the way down and two on the way up reach 4
    cells to each side at strides 1, 2, 4 and 8, and 2 at the bottom's 16; where the pixel lies in its 16 x 16 cell
    adds up to 15."""
    torch.manual_seed(0)
    model = UNet(classes=TWO, channels=32).eval()
    image = torch.randn(1, 3, 320, 16, requires_grad=True)
    model(image)["semantic"][0, 0, 160, 8].backward()
    rows = image.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    reach = sum(4 * stride for stride in (1, 2, 4, 8)) + 2 * 16
    assert 160 - rows.min().item() in range(reach, reach + 16)
    assert rows.max().item() - 160 in range(reach, reach + 16)


def test_the_output_is_that_of_monai_s_with_the_same_weights():
    reference = basic_unet.BasicUNet(2, 3, 2, features=(8, 16, 32, 64, 128, 8), **RELU_AND_BATCH_NORM)
    # Its last up-convolution keeps the channels, the paper's halve them all.
    reference.upcat_1 = basic_unet.UpCat(2, 16, 8, 8, **RELU_AND_BATCH_NORM)
    ours = UNet(classes=TWO, channels=32)
    images = torch.randn(2, 3, 64, 96)
    ours(images)  # moves the norms' statistics
    reference.load_state_dict(dict(zip(reference.state_dict(), ours.state_dict().values(), strict=True)))
    with torch.no_grad():
        wanted = reference.eval()(images)
        torch.testing.assert_close(ours.eval()(images)["semantic"], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("encoder", "stride"), [("paper", 16), ("test_resnet", 32), ("test_convnext", 32), ("test_efficientnet", 32)]
)
def test_the_output_has_the_input_s_size(encoder, stride):
    model = UNet(classes=TWO, encoder=Choice(encoder), channels=16)
    assert (model.stride, model.context) == (stride, 0)
    assert model(torch.zeros(2, 3, 64, 96))["semantic"].shape == (2, 2, 64, 96)


def test_there_are_no_weights_for_the_paper_s_encoder():
    with pytest.raises(ConfigError, match="no imagenet weights for U-Net's own encoder"):
        UNet(classes=TWO, encoder=Choice(weights="imagenet"), channels=16)


def test_an_encoder_of_padded_convolutions_cannot_do_without():
    with pytest.raises(ConfigError, match=r"'test_resnet' cannot\n.* set model\.unet\.padded: true"):
        UNet(classes=TWO, encoder=Choice("test_resnet"), channels=16, padded=False)


def test_unpadded_its_maps_have_the_sizes_of_the_paper_s_figure():
    sizes = []
    with torch.device("meta"):
        model = UNet(classes=TWO, encoder=Choice(in_channels=1), padded=False).eval()
        for part in (*model.encoder.levels, *model.ups):
            part.register_forward_hook(lambda _, inputs, output: sizes.append(tuple(output.shape[1:])))
        scores = model.network(torch.zeros(1, 1, 572, 572))
    down = [(64, 568, 568), (128, 280, 280), (256, 136, 136), (512, 64, 64), (1024, 28, 28)]
    assert sizes == [*down, (512, 52, 52), (256, 100, 100), (128, 196, 196), (64, 388, 388)]
    assert scores.shape == (1, 2, 388, 388)


def unpadded(seed: int = 0) -> UNet:
    """One whose norms have seen something."""
    torch.manual_seed(seed)
    model = UNet(classes=TWO, channels=8, padded=False)
    with torch.no_grad():
        model(torch.randn(2, 3, 32, 32))
    return model.eval()


def test_unpadded_it_gives_what_padded_gives_far_from_the_border():
    model, image = unpadded(), torch.randn(1, 3, 272, 304)
    padded = UNet(classes=TWO, channels=8)
    padded.load_state_dict(model.state_dict())
    margin = 112  # pixels that the border's padding reaches in the padded form: 92, and 15 for the cells it fills
    rows, columns = slice(margin, 272 - margin), slice(margin, 304 - margin)
    around = slice(margin - model.context, margin - model.context + 48 + 2 * model.context)
    with torch.no_grad():
        wanted = padded.eval()(image)["semantic"][..., rows, columns]
        beside = slice(around.start, 304 - around.start)
        torch.testing.assert_close(model.surrounded(image[..., around, beside]), wanted, atol=1e-4, rtol=1e-4)


def test_tiles_among_their_neighbours_make_the_whole_image():
    model, image, tile = unpadded(), torch.randn(1, 3, 64, 96), 32
    around = torch.from_numpy(np.pad(image.numpy(), ((0, 0), (0, 0), (94, 94), (94, 94)), mode="reflect"))
    with torch.no_grad():
        whole = model(image)["semantic"]
        for top in range(0, 64, tile):
            for left in range(0, 96, tile):
                piece = around[..., top : top + tile + 188, left : left + tile + 188]
                wanted = whole[..., top : top + tile, left : left + tile]
                torch.testing.assert_close(model.surrounded(piece), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("height", "width", "margin"), [(48, 32, 5), (16, 32, 94), (2, 3, 20), (16, 16, 0)])
def test_what_surrounds_an_image_is_its_mirror_image_as_often_as_it_takes(height, width, margin):
    images = torch.randn(2, 3, height, width)
    sides = (margin, margin)
    assert np.array_equal(mirror(images, margin), np.pad(images, ((0, 0), (0, 0), sides, sides), mode="reflect"))


def test_unpadded_it_learns_from_one_small_image():
    torch.manual_seed(0)
    model = UNet(classes=TWO, channels=16, padded=False)
    images = torch.randn(1, 3, 64, 64)
    images[..., 32:] += 2
    targets = Targets(semantic=(torch.arange(64) >= 32).long().expand(1, 64, 64), instances=[])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    history = []
    for _ in range(10):
        outputs = model(images)
        (loss,) = model.losses(
            outputs, targets, lambda logits, t: F.cross_entropy(logits, t.semantic, ignore_index=IGNORE)
        ).values()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        history.append(loss.item())
    assert outputs["semantic"].shape == (1, 2, 64, 64)
    assert history[-1] < 0.8 * history[0]


def test_unpadded_it_is_exported_for_any_batch_and_size():
    model = unpadded()
    axes = {0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with torch.no_grad():
        exported = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes=(axes,), strict=False)
        images = torch.randn(3, 3, 32, 144)  # smaller, and larger, than what surrounds it
        found = exported.module()(images)["semantic"]
        torch.testing.assert_close(found, model(images)["semantic"], atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_unpadded_it_compiles_without_a_break():
    model, images = unpadded(), torch.randn(2, 3, 64, 64)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=True)
        torch.testing.assert_close(compiled(images)["semantic"], model(images)["semantic"])
