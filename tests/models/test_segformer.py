"""SegFormer and its encoder against segmentation_models_pytorch's with equal weights, and the paper's counts."""

import pytest
import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pipelines.errors import ConfigError
from pipelines.models import mix_transformer
from pipelines.models.blocks import resize
from pipelines.models.encoders import Choice
from pipelines.models.semantic.segformer import SegFormer
from tests.models.parity import classes_of
from tests.models.recorded import fill, noise


def reference(encoder: str, channels: int, classes: int) -> smp.Segformer:
    return smp.Segformer(encoder, encoder_weights=None, decoder_segmentation_channels=channels, classes=classes)


def pour(ours: SegFormer, theirs: smp.Segformer) -> None:
    """smp's decoder takes the coarsest map first, and fuses four concatenated maps at once."""
    decoder = theirs.decoder
    theirs.encoder.load_state_dict(ours.encoder.body.state_dict())
    for linear, mlp in zip(ours.decoder.linear, reversed(decoder.mlp_stage), strict=True):
        mlp.linear.load_state_dict({"weight": linear.weight[..., 0, 0], "bias": linear.bias})
    fuse, norm = decoder.fuse_stage[0], decoder.fuse_stage[1]
    fuse.load_state_dict({"weight": torch.cat([fuse.weight for fuse in reversed(ours.decoder.fuse)], dim=1)})
    norm.load_state_dict(ours.decoder.activate[0].state_dict())
    theirs.segmentation_head[0].load_state_dict(ours.decoder.classify.state_dict())


@pytest.mark.parametrize(("encoder", "channels"), [("mit_b0", 256), ("mit_b2", 768)])
def test_it_is_smp_s(encoder, channels):
    with torch.device("meta"):
        ours = SegFormer(classes=classes_of(5), encoder=Choice(encoder))
    theirs = reference(encoder, channels, classes=5).double().eval()
    fill(ours).eval()  # not fresh weights: with those, attention is next to uniform
    pour(ours, theirs)
    theirs.segmentation_head[1] = nn.Identity()  # smp interpolates from corner to corner there
    images = noise("images", (1, 3, 64, 96))
    with torch.no_grad():
        for mine, other in zip(ours.encoder(images), theirs.encoder(images)[2:], strict=True):
            torch.testing.assert_close(mine, other)
        torch.testing.assert_close(ours(images)["semantic"], resize(theirs(images), (64, 96)))


@pytest.mark.parametrize(
    ("encoder", "millions"),  # the paper's table 1, with the 150 classes of ADE20K
    [("mit_b0", 3.8), ("mit_b1", 13.7), ("mit_b2", 27.5), ("mit_b3", 47.3), ("mit_b4", 64.1), ("mit_b5", 84.7)],
)
def test_each_size_has_the_paper_s_parameters(encoder, millions):
    with torch.device("meta"):
        ours = SegFormer(classes=classes_of(150), encoder=Choice(encoder))
    assert round(sum(p.numel() for p in ours.parameters()) / 1e6, 1) == millions


def test_the_paper_s_encoder_is_the_smallest():
    with torch.device("meta"):
        ours = SegFormer(classes=classes_of(150))
    # That of smp, and of the authors' checkpoint for ADE20K: 3.752694 million.
    assert ours.encoder.name == "mit_b0"
    assert sum(p.numel() for p in ours.parameters()) == 3_752_694


def test_it_costs_less_than_the_paper_s_for_the_same_numbers():
    with torch.device("meta"):
        ours, image = SegFormer(classes=classes_of(150)), torch.empty(1, 3, 512, 512)
    costs = []
    for model in (reference("mit_b0", 256, classes=150).to("meta"), ours):
        with FlopCounterMode(display=False) as counter:
            model.eval()(image)
        costs.append(counter.get_total_flops() / 2e9)
    assert round(costs[0], 1) == 8.4  # the paper's table 1: giga multiply-adds at 512x512
    assert costs[1] < 0.7 * costs[0]


def test_keys_and_values_come_from_a_coarser_map():
    model, sides = SegFormer(classes=classes_of(3), channels=16), []
    for n in range(1, 5):
        attention = model.encoder.body[f"block{n}"][0].attn
        for layer in (attention.q, attention.kv):
            layer.register_forward_hook(lambda _, given, out: sides.append(out.shape[1]))
    model(torch.zeros(1, 3, 128, 128))
    asking, answering = sides[::2], sides[1::2]
    assert asking == [128 // 4, 128 // 8, 128 // 16, 128 // 32]
    assert answering == [32 // 8, 16 // 4, 8 // 2, 4 // 1]


def test_blocks_are_dropped_the_more_the_deeper():
    with torch.device("meta"):
        body = mix_transformer.build(Choice("mit_b2")).body
    rates = [m.drop_prob for m in body.modules() if type(m).__name__ == "DropPath"]
    assert rates == pytest.approx([0.1 * i / 15 for i in range(16)])


def test_fresh_weights_are_the_authors():
    torch.manual_seed(0)
    body = mix_transformer.build(Choice("mit_b1")).body
    block = body["block4"][0]
    assert block.mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.02)
    # He's for the outputs of a group: a depthwise convolution has one, of 9 weights.
    assert block.mlp.dwconv.dwconv.weight.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.02)
    assert body["patch_embed4"].proj.weight.std().item() == pytest.approx((2 / (9 * 512)) ** 0.5, rel=0.02)
    assert all(not p.any() for name, p in body.named_parameters() if name.endswith("bias"))


def test_weights_come_from_a_file_with_the_published_names(tmp_path):
    theirs = reference("mit_b0", 256, classes=3).encoder.eval()
    published = {**theirs.state_dict(), "head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    save_file(published, tmp_path / "mit_b0.safetensors")
    encoder = Choice(weights=str(tmp_path / "mit_b0.safetensors"))
    ours = SegFormer(classes=classes_of(3), encoder=encoder, channels=16).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.encoder(images)[-1], theirs(images)[-1], rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="does not fit the encoder"):
        SegFormer(classes=classes_of(3), encoder=Choice("mit_b1", str(tmp_path / "mit_b0.safetensors")))


def test_imagenet_weights_are_not_had_by_themselves():
    with pytest.raises(ConfigError, match=r"model\.weights: .*'mit_b0'.*\n.*\.safetensors file.*none"):
        SegFormer(classes=classes_of(3), encoder=Choice(weights="imagenet"))


def test_there_is_no_larger_one():
    with pytest.raises(ConfigError, match=r"model\.encoder: timm has no 'mit_b6'"):
        SegFormer(classes=classes_of(3), encoder=Choice("mit_b6"))
