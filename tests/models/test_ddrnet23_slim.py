"""DDRNet-23-slim against the paper's count and the authors' code, whose outputs with equal weights are recorded."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.errors import ConfigError
from pipelines.models.encoders import Choice
from pipelines.models.semantic.ddrnet23_slim import DAPPM, DDRNet23Slim
from tests.models.parity import classes_of
from tests.models.recorded import figures, fill, noise


def small(**options) -> DDRNet23Slim:
    return DDRNet23Slim(classes=classes_of(3), channels=8, **options)


def conv(inputs: int, outputs: int, kernel: int) -> int:
    """One without a bias, and its norm, in front of it or behind it."""
    return kernel * kernel * inputs * outputs + 2 * outputs


def stage(inputs: int, outputs: int) -> int:
    """Two residual blocks of two 3x3 convolutions; where the width changes, a 1x1 on the way around the first."""
    around = 0 if inputs == outputs else conv(inputs, outputs, 1)
    return conv(inputs, outputs, 3) + 3 * conv(outputs, outputs, 3) + around


def bottleneck(inputs: int, inner: int) -> int:
    around = conv(inputs, 2 * inner, 1)
    return conv(inputs, inner, 1) + conv(inner, inner, 3) + conv(inner, 2 * inner, 1) + around


def pre(inputs: int, outputs: int, kernel: int) -> int:
    """The norm is in front, and so as wide as the inputs."""
    return kernel * kernel * inputs * outputs + 2 * inputs


def test_the_paper_s_network_has_the_paper_s_parameters():
    with torch.device("meta"):
        ours = DDRNet23Slim(classes=classes_of(19))
    stem = conv(3, 32, 3) + conv(32, 32, 3) + 2 * 32  # these two have biases
    trunk = stage(32, 32) + stage(32, 64)
    low = stage(64, 128) + stage(128, 256) + bottleneck(256, 256)
    high = 2 * stage(64, 64) + bottleneck(64, 64)
    fusions = conv(128, 64, 1) + conv(256, 64, 1) + conv(64, 128, 3) + (conv(64, 128, 3) + conv(128, 256, 3))
    pooling = 5 * pre(512, 128, 1) + 4 * pre(128, 128, 3) + pre(5 * 128, 128, 1) + pre(512, 128, 1)
    head = pre(128, 64, 3) + 2 * 64 + (64 * 19 + 19)
    auxiliary = pre(64, 64, 3) + 2 * 64 + (64 * 19 + 19)
    counted = stem + trunk + low + high + fusions + pooling + head
    assert round(counted / 1e6, 1) == 5.7  # the paper's table 4, without the head that only helps to train
    assert sum(p.numel() for p in ours.parameters()) == counted + auxiliary


def test_the_paper_s_network_costs_what_the_paper_says():
    with torch.device("meta"):
        ours, image = DDRNet23Slim(classes=classes_of(19)).eval(), torch.empty(1, 3, 1024, 2048)
    with FlopCounterMode(display=False) as counter:
        ours(image)
    assert round(counter.get_total_flops() / 2e9, 1) == 36.3  # giga multiply-adds at 1024x2048, the same table


def test_it_gives_what_the_authors_network_gives():
    # Of github.com/ydhongHIT/DDRNet with the weights of `fill`, in training and float64, its scores scaled up.
    found = fill(DDRNet23Slim(classes=classes_of(3)))(noise("images", (3, 3, 64, 96)))
    recorded = {
        "semantic": [0.228394326, -0.799055725, -0.776821345, 0.736771894],
        "auxiliary": [-2.338937714, -1.656340227, 0.615296453, 1.16436473],
    }
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert figures(found[name]) == pytest.approx(values, abs=1e-7)


def pooled(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Means of windows around every `stride`th pixel; what lies outside of the map counts as zero."""
    _, _, height, width = x.shape
    rows = [
        [
            x[:, :, max(0, i - kernel // 2) : i + kernel // 2 + 1, max(0, j - kernel // 2) : j + kernel // 2 + 1]
            .sum(dim=(2, 3))
            .div(kernel**2)
            for j in range(0, width, stride)
        ]
        for i in range(0, height, stride)
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (7, 10), (16, 32)])
def test_pyramid_pooling_is_its_definition(size):
    ours, x = fill(DAPPM(6, 4, 5)).eval(), noise("map", (2, 6, *size))
    windows = [x, pooled(x, 5, 2), pooled(x, 9, 4), pooled(x, 17, 8), x.mean(dim=(2, 3), keepdim=True)]
    y = [scale[1](window) for scale, window in zip(ours.scales, windows, strict=True)]
    for i in range(1, 5):
        raised = nn.functional.interpolate(y[i], size=size, mode="bilinear", align_corners=False)
        y[i] = ours.processes[i - 1](raised + y[i - 1])
    torch.testing.assert_close(ours(x), ours.compression(torch.cat(y, dim=1)) + ours.shortcut(x))


def test_branches_have_the_paper_s_strides_and_widths():
    shallow, high, low = small().encoder(torch.randn(2, 3, 128, 192))
    assert [tuple(x.shape[1:]) for x in (shallow, high, low)] == [(16, 16, 24), (32, 16, 24), (128, 2, 3)]


@pytest.mark.parametrize(("cut", "reached"), [("down", "low"), ("compression", "high")])
def test_each_branch_is_told_of_the_other(cut, reached):
    """Without both fusions of a direction, what a branch did after stage 3 no longer matters to the other's end."""
    torch.manual_seed(0)
    model = small().encoder.eval()
    source = model.layer4_ if reached == "low" else model.layer4
    end = {"low": lambda out: out[2], "high": lambda out: out[1]}[reached]
    images = torch.randn(1, 3, 64, 64)

    def gradient() -> float:
        model.zero_grad()
        end(model(images)).square().sum().backward()
        grads = [p.grad.abs().max().item() for p in source.parameters() if p.grad is not None]
        return max(grads, default=0)

    assert gradient() > 0
    norm = {"down": model.down4[-1], "compression": model.compression4[-1]}[cut]
    nn.init.zeros_(norm.weight)
    assert gradient() == 0


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (72, 136)])
def test_one_small_image_of_any_multiple_of_8_is_learned_from(size):
    model = small()
    outputs = model(torch.randn(1, 3, *size))
    assert {tuple(logits.shape[-2:]) for logits in outputs.values()} == {size}
    sum(logits.square().mean() for logits in outputs.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_weights_come_from_a_file_with_the_published_names(tmp_path):
    original = fill(small()).float()
    published = original.encoder.state_dict()
    # A few of the authors' names: stem, both branches, both directions of fusion, a way around.
    assert published.keys() >= {
        "conv1.3.bias", "layer1.1.conv2.weight", "layer3_.1.bn2.running_mean", "layer5_.0.conv3.weight",
        "compression3.1.bias", "down3.0.weight", "down4.3.weight", "layer5.0.downsample.0.weight",
    }  # fmt: skip
    save_file({**published, "last_layer.bias": torch.zeros(1000)}, tmp_path / "w.safetensors")
    ours = small(encoder=Choice(weights=str(tmp_path / "w.safetensors")))
    assert all(torch.equal(value, published[name]) for name, value in ours.encoder.state_dict().items())


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"conv1.0.weight": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"w\.safetensors does not fit"):
        small(encoder=Choice(weights=str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"encoder": Choice("resnet18")}, r"model\.encoder: .*'resnet18'.*\n.*model\.encoder: paper"),
        ({"encoder": Choice(weights="imagenet")}, r"model\.weights: .*pickle.*\n.*\.safetensors"),
    ],
)
def test_what_it_cannot_have_is_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        small(**options)
