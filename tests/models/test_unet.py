"""U-Net against the paper's layer table."""

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes
from pipelines.models.semantic.unet import UNet

TWO = Classes(things=(1,), stuff=(0,))


def test_the_paper_s_network_has_the_paper_s_parameters():
    # Figure 1 of arXiv 1505.04597, layer by layer: (inputs, outputs) of the 3x3 convolutions, then the 2x2 up-
    # convolutions, then the 1x1 to the classes; for 3 input channels in place of 1.
    down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]
    bottom = [(512, 1024), (1024, 1024)]
    up = [(1024, 512), (512, 512), (512, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64)]
    raised = [(1024, 512), (512, 256), (256, 128), (128, 64)]
    threes = down + bottom + up
    with_biases = sum(9 * i * o + o for i, o in threes) + sum(4 * i * o + o for i, o in raised) + (64 * 2 + 2)
    assert with_biases == 31_031_810
    # Ours has batch norm's scale and shift where the paper has a bias.
    ours = UNet(classes=TWO, encoder="unet", weights="none", channels=256)
    assert sum(p.numel() for p in ours.parameters()) == with_biases + sum(o for _, o in threes)


def test_the_paper_s_network_sees_what_its_geometry_says():
    """The rows that a pixel's score depends on: two 3x3 convolutions on the way down and two on the way up reach 4
    cells to each side at strides 1, 2, 4 and 8, and 2 at the bottom's 16; where the pixel lies in its 16 x 16 cell
    adds up to 15."""
    model = UNet(classes=TWO, encoder="unet", weights="none", channels=8).eval()
    image = torch.randn(1, 3, 320, 16, requires_grad=True)
    model(image)["semantic"][0, 0, 160, 8].backward()
    rows = image.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    reach = sum(4 * stride for stride in (1, 2, 4, 8)) + 2 * 16
    assert 160 - rows.min().item() in range(reach, reach + 16)
    assert rows.max().item() - 160 in range(reach, reach + 16)


@pytest.mark.parametrize(
    ("encoder", "stride"), [("unet", 16), ("test_resnet", 32), ("test_convnext", 32), ("test_efficientnet", 32)]
)
def test_the_output_has_the_input_s_size(encoder, stride):
    model = UNet(classes=TWO, encoder=encoder, weights="none", channels=16)
    assert model.stride == stride
    assert model(torch.zeros(2, 3, 64, 96))["semantic"].shape == (2, 2, 64, 96)


def test_there_are_no_weights_for_the_paper_s_encoder():
    with pytest.raises(ConfigError, match="no imagenet weights for the encoder 'unet'"):
        UNet(classes=TWO, encoder="unet", weights="imagenet", channels=16)
