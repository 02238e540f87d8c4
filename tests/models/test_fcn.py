"""FCN against the authors' layers, torchvision's VGG-16 and bilinear interpolation."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import vgg, vgg16

from pipelines.models.contract import Classes
from pipelines.models.encoders import Choice
from pipelines.models.semantic.fcn import FCN, FCN8s, FCN16s, FCN32s, Upsample

VOC = Classes(things=tuple(range(1, 21)), stuff=(0,))
THREE = Classes(things=(1,), stuff=(0, 2))


def conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> int:
    return kernel * kernel * inputs * outputs + bias * outputs


# (inputs, outputs) of VGG-16's 3x3 convolutions, the paper's table 1 (arXiv 1409.1556).
VGG16 = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512), *5 * [(512, 512)]]
# The layers of the authors' voc-fcn32s, voc-fcn16s and voc-fcn8s.
COMMON = sum(conv(i, o, 3) for i, o in VGG16) + conv(512, 4096, 7) + conv(4096, 4096, 1) + conv(4096, 21, 1)
POOL4, POOL3, UP2 = conv(512, 21, 1), conv(256, 21, 1), conv(21, 21, 4, bias=False)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (FCN32s, COMMON + conv(21, 21, 64, bias=False)),
        (FCN16s, COMMON + POOL4 + UP2 + conv(21, 21, 32, bias=False)),
        (FCN8s, COMMON + POOL4 + POOL3 + 2 * UP2 + conv(21, 21, 16, bias=False)),
    ],
)
def test_the_paper_s_network_has_the_authors_parameters(build, count):
    with torch.device("meta"):
        ours = build(classes=VOC)
    assert sum(p.numel() for p in ours.parameters()) == count
    assert round(COMMON / 1e6) == 134  # million, in the paper's table 1
    assert [m.p for m in ours.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("stride", [2, 8, 32])
def test_scores_are_raised_bilinearly_at_first_and_learned(stride):
    layer, scores = Upsample(3, stride), torch.randn(2, 3, 4, 5)
    wanted = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(scores), wanted, atol=1e-5, rtol=1e-5)
    assert layer.weight.requires_grad


@pytest.mark.parametrize("build", [FCN32s, FCN16s, FCN8s])
def test_nothing_is_scored_at_first_and_every_score_learns(build):
    model = build(classes=THREE, encoder=Choice("test_resnet"), channels=8).train()
    logits = model(torch.randn(2, 3, 64, 64))["semantic"]
    assert not logits.any()
    (logits * torch.randn_like(logits)).sum().backward()
    assert all(layer.weight.grad.any() for layer in (model.score, *model.score_pools))


def scored(model: FCN) -> FCN:
    """With scores that say something, and upsampling that is no longer bilinear."""
    torch.manual_seed(1)
    for layer in (model.score, *model.score_pools, model.upscore, *model.upscores):
        nn.init.normal_(layer.weight, std=0.1)
    return model.eval()


def raised(scores: Tensor, layer: Upsample) -> Tensor:
    """The transposed convolution as the authors crop it, of a map that goes on beyond the image as at its border."""
    stride = layer.stride[0]
    wide = F.conv_transpose2d(F.pad(scores, (1, 1, 1, 1), mode="replicate"), layer.weight, stride=stride)
    cut = stride + stride // 2
    return wide[..., cut:-cut, cut:-cut]


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Sequential, str]:
    """torchvision's convolutions of VGG-16, and a file of their weights."""
    reference, path = vgg.make_layers(vgg.cfgs["D"]).eval(), tmp_path_factory.mktemp("vgg") / "w.safetensors"
    save_file({f"features.{key}": value for key, value in reference.state_dict().items()}, path)
    return reference, str(path)


@pytest.mark.parametrize("build", [FCN32s, FCN16s, FCN8s])
def test_the_skips_are_vgg_s_pools_of_the_same_weights(build, features):
    reference, weights = features
    model = scored(build(classes=THREE, encoder=Choice(weights=weights), channels=8))
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        pool3 = reference[:17](images)
        pool4 = reference[17:24](pool3)
        scores = model.score(model.fc7(model.fc6(reference[24:](pool4))))
        for upscore, score, pool in zip(model.upscores, model.score_pools, (pool4, pool3), strict=False):
            scores = raised(scores, upscore) + F.conv2d(pool, score.weight, score.bias)
        torch.testing.assert_close(model(images)["semantic"], raised(scores, model.upscore), atol=1e-4, rtol=1e-4)


@pytest.mark.slow  # 138 million weights, thrice
def test_the_classifier_became_convolutions_with_its_weights(tmp_path):
    """On an image of the classifier's size, the middle of fc7 has seen what the classifier saw."""
    reference = vgg16(init_weights=False).eval()
    state = {k.replace("classifier.0", "pre_logits.fc1"): v for k, v in reference.state_dict().items()}
    state = {k.replace("classifier.3", "pre_logits.fc2"): v for k, v in state.items()}
    state["pre_logits.fc1.weight"] = state["pre_logits.fc1.weight"].view(4096, 512, 7, 7)
    state["pre_logits.fc2.weight"] = state["pre_logits.fc2.weight"].view(4096, 4096, 1, 1)
    save_file(state, tmp_path / "w.safetensors")
    del state
    model = FCN8s(classes=VOC, encoder=Choice(weights=str(tmp_path / "w.safetensors"))).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        wanted = reference.classifier[:5](reference.features(images).flatten(1))
        found = model.fc7(model.fc6(model.encoder(images)[-1]))
    assert found.shape == (1, 4096, 7, 7)
    torch.testing.assert_close(found[:, :, 3, 3], wanted, atol=1e-4, rtol=1e-4)
