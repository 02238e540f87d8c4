"""SegNet against the authors' layers, torchvision's VGG-16 and unpooling by hand."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import vgg

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes
from pipelines.models.encoders import Choice
from pipelines.models.semantic.segnet import SegNet

CAMVID = Classes(things=(8, 9, 10), stuff=tuple(range(8)))
# (inputs, outputs) of the authors' network for CamVid, conv1_1 ... conv5_3, then conv5_3_D ... conv1_1_D.
DOWN = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), *5 * [(512, 512)]]
UP = [*5 * [(512, 512)], (512, 256), (256, 256), (256, 256), (256, 128), (128, 128), (128, 64), (64, 64), (64, 11)]


def test_the_paper_s_network_has_the_authors_layers():
    with torch.device("meta"):
        ours = SegNet(classes=CAMVID)
    convs = [m for m in ours.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convs] == DOWN + UP
    assert {(m.kernel_size, m.padding) for m in convs} == {((3, 3), (1, 1))}
    # Each has a bias, and all but the last have batch norm's scale and shift.
    count = sum(9 * i * o + 3 * o for i, o in DOWN + UP) - 2 * 11
    assert sum(p.numel() for p in ours.parameters()) == count
    assert int(4 * count / 1e6) == 117  # the paper's table 6: a model of 117 MB


def cells(x: Tensor) -> Tensor:
    """[b, c, h, w] -> [b, c, h / 2, w / 2, 4]: what each maximum is taken from, row by row."""
    windows = x.unfold(2, 2, 2).unfold(3, 2, 2)
    return windows.flatten(-2)


def unpooled(values: Tensor, before: Tensor) -> Tensor:
    """`values` where the maxima of `before` lie."""
    where = F.one_hot(cells(before).argmax(dim=-1), 4)
    grid = (where * values[..., None]).unflatten(-1, (2, 2))  # [b, c, h, w, 2, 2]
    return grid.transpose(3, 4).flatten(2, 3).flatten(3, 4)


def test_it_unpools_to_the_maxima_of_vgg_s_features_of_the_same_weights(tmp_path):
    torch.manual_seed(0)
    reference = vgg.make_layers(vgg.cfgs["D"], batch_norm=True).train()
    with torch.no_grad():
        reference(torch.randn(4, 3, 64, 64))  # statistics worth comparing
    save_file({f"features.{key}": value for key, value in reference.state_dict().items()}, tmp_path / "w.safetensors")
    model = SegNet(classes=CAMVID, encoder=Choice(weights=str(tmp_path / "w.safetensors"))).eval()
    reference.eval()
    given: list[Tensor] = []
    made: list[Tensor] = []
    for stage in model.decoder:
        stage.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        stage.register_forward_hook(lambda *passed: made.append(passed[-1]))
    with torch.no_grad():
        x, before = torch.randn(2, 3, 64, 96), []
        logits = model(x)["semantic"]
        for layer in reference:
            if isinstance(layer, nn.MaxPool2d):
                before.append(x)
            x = layer(x)
        for found, values, features in zip(given, [x, *made[:-1]], reversed(before), strict=True):
            torch.testing.assert_close(found, unpooled(values, features), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits, made[-1])
    assert logits.shape == (2, 11, 64, 96)


def test_weights_of_another_width_are_refused(tmp_path):
    layers = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    save_file({f"features.{key}": value for key, value in layers.state_dict().items()}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"missing or of another shape: features_0\.weight"):
        SegNet(classes=CAMVID, encoder=Choice(weights=str(tmp_path / "w.safetensors")), channels=8)
