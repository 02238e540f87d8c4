"""What serves as an encoder, and what is said of the rest."""

import pytest
import timm
import torch
from safetensors.torch import save_file

from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.encoders import Choice


def build(name, weights, in_channels=3, **options):
    return encoders.build(Choice(name, weights, in_channels), **{"paper": "test_resnet", **options})


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_features_have_the_channels_and_strides_it_says(name):
    encoder = build(name, "none")
    features = encoder(torch.zeros(2, 3, 64, 96))
    assert [f.shape[1] for f in features] == encoder.channels
    assert [64 // f.shape[2] for f in features] == [96 // f.shape[3] for f in features] == encoder.reductions


def test_a_dilated_encoder_keeps_its_stride_and_gives_its_deepest_map():
    encoder = build("test_resnet", "none", output_stride=16)
    assert encoder.reductions == [2, 4, 8, 16, 16]
    assert encoder.at(16) == 4


def test_dilation_keeps_the_weights():
    plain, dilated = (build("test_resnet", "none", output_stride=s) for s in (32, 16))
    assert {k: v.shape for k, v in plain.state_dict().items()} == {k: v.shape for k, v in dilated.state_dict().items()}


def test_building_leaves_no_trace_of_the_probe():
    encoder = build("test_resnet", "none")
    assert all(module.training for module in encoder.modules())
    assert all(not b.any() for k, b in encoder.named_buffers() if k.endswith("num_batches_tracked"))


@pytest.mark.parametrize(
    ("name", "stride", "match"),
    [
        ("resnet_18", 32, "timm has no 'resnet_18', did you mean 'resnet18'"),
        ("test_resnet.nowhere", 32, "Invalid pretrained tag"),
        ("vit_tiny_patch16_224", 32, "does not take images of any size"),
        ("hrnet_w18_small", 16, "cannot serve as a feature extractor at output stride 16"),
    ],
)
def test_what_cannot_serve_is_refused(name, stride, match):
    with pytest.raises(ConfigError, match=match):
        build(name, "none", output_stride=stride)


def test_an_architecture_brings_an_encoder_of_its_own():
    assert build("paper", "none").name == "test_resnet"


def test_a_missing_stride_is_named():
    with pytest.raises(ConfigError, match=r"'test_convnext' has feature maps at strides 4, 8, 16, 32; .* one at 2"):
        build("test_convnext", "none").at(2)


def test_one_pixel_cannot_be_trained_on():
    encoder = build("test_resnet", "none")
    with pytest.raises(ConfigError, match=r"train\.augment\.crop: 1 image of 32x32"):
        encoder(torch.zeros(1, 3, 32, 32))
    encoder(torch.zeros(2, 3, 32, 32))
    encoder.eval()(torch.zeros(1, 3, 32, 32))


# test_convnext's extractor renames its layers; both files hold a classifier that an encoder has no use for.
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_weights_come_from_a_file_of_timm_s(tmp_path, name):
    original = timm.create_model(name).eval()
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    encoder = build(name, str(tmp_path / "w.safetensors")).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        deepest = original.forward_intermediates(images, intermediates_only=True)[-1]
        torch.testing.assert_close(encoder(images)[-1], deepest)


def test_weights_of_another_architecture_are_refused(tmp_path):
    save_file(timm.create_model("test_convnext").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit the encoder\n  - missing or of another shape"):
        build("test_resnet", str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("w.safetensors", b"\xff" * 64, "cannot be read"),
        ("w.safetensors", None, "is not a .safetensors file"),
        ("w.pt", b"", "is not a .safetensors file"),
    ],
)
def test_weights_that_are_no_weights_are_refused(tmp_path, name, content, match):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=match):
        build("test_resnet", str(tmp_path / name))


def test_imagenet_weights_that_do_not_exist_are_said_to_be_the_fault():
    with pytest.raises(ConfigError, match=r"the ImageNet weights of 'darknet17' cannot be had"):
        build("darknet17", "imagenet")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])  # the last is no plain sequence
def test_the_finest_features_are_the_first_of_all(name):
    encoder, images = build(name, "none").eval(), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        everything, first = encoder(images), encoder.finest(images, 2)
    assert len(first) == 2
    assert all(torch.equal(one, other) for one, other in zip(first, everything, strict=False))


def test_layers_that_are_not_of_an_encoder_are_filled_by_timm_s_names(tmp_path):
    original = timm.create_model("test_resnet")
    save_file(original.state_dict(), tmp_path / "w.safetensors")
    fc = torch.nn.Linear(original.fc.in_features, original.fc.out_features)
    encoders.load({"fc": fc}, "test_resnet", Choice(weights=str(tmp_path / "w.safetensors")))
    assert torch.equal(fc.weight, original.fc.weight)
    with pytest.raises(ConfigError, match=r"missing or of another shape: layer9\.weight"):
        encoders.load({"layer9": fc}, "test_resnet", Choice(weights=str(tmp_path / "w.safetensors")))
