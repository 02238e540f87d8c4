"""U-Net++ against its authors' parameter counts and MONAI's with equal weights; what is pruned is not computed."""

import pytest
import torch
from monai.networks.nets import basic_unet, basic_unetplusplus
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes, Targets
from pipelines.models.encoders import Choice
from pipelines.models.semantic.unetplusplus import UNetPlusPlus

TWO = Classes(things=(1,), stuff=(0,))
ONE = Classes(things=(), stuff=(0,))
RELU_AND_BATCH_NORM = {"act": "relu", "norm": "batch", "bias": False}


def test_the_paper_s_network_has_the_authors_parameters():
    widths = [32, 64, 128, 256, 512]
    nodes = {(i, 0): ([1, *widths][i], widths[i]) for i in range(5)}
    nodes |= {(i, j): ((j + 1) * widths[i], widths[i]) for j in range(1, 5) for i in range(5 - j)}
    convs = [pair for inputs, outputs in nodes.values() for pair in ((inputs, outputs), (outputs, outputs))]
    raised = [(widths[i + 1], widths[i]) for i, j in nodes if j]
    count = sum(9 * i * o + o for i, o in convs) + sum(4 * i * o + o for i, o in raised) + 32 + 1
    assert count == 9_041_601  # the authors' count of their code's network, 9.04 million in the paper's table 3
    with torch.device("meta"):
        ours = UNetPlusPlus(classes=ONE, encoder=Choice(in_channels=1), deep_supervision=False)
        deep = UNetPlusPlus(classes=ONE, encoder=Choice(in_channels=1))
    # Ours has batch norm's scale and shift where the authors have a bias; each further end has its classifier.
    assert sum(p.numel() for p in ours.parameters()) == count + sum(o for _, o in convs)
    assert sum(p.numel() for p in deep.parameters()) == count + sum(o for _, o in convs) + 3 * 33


@pytest.fixture(scope="module")
def reference() -> tuple[UNetPlusPlus, Tensor, list[Tensor]]:
    """Ours, an image, and the scores of the four ends of MONAI's with the same weights."""
    torch.manual_seed(0)
    theirs = basic_unetplusplus.BasicUNetPlusPlus(
        2, 3, 2, features=(8, 16, 32, 64, 128, 8), deep_supervision=True, **RELU_AND_BATCH_NORM
    )
    for j in range(1, 5):  # at full size its up-convolutions keep the channels, the paper's halve them everywhere
        setattr(theirs, f"upcat_0_{j}", basic_unet.UpCat(2, 16, 8 * j, 8, **RELU_AND_BATCH_NORM))
    ours, images = UNetPlusPlus(classes=TWO, channels=32), torch.randn(2, 3, 64, 96)
    ours(images)  # moves the norms' statistics
    names = sorted(theirs.state_dict(), key=order)
    theirs.load_state_dict(dict(zip(names, ours.state_dict().values(), strict=True)))
    with torch.no_grad():
        return ours, images, theirs.eval()(images)


def order(name: str) -> tuple[int, str]:
    """Encoder, nodes column by column, classifiers: as ours are."""
    kind, i, j = name.split(".")[0].rsplit("_", 2)
    return ["conv", "upcat", "final_conv"].index(kind), f"{j}{i}" if kind == "upcat" else f"{i}{j}"


@torch.no_grad()
def test_trained_at_all_ends_they_are_those_of_monai_s(reference):
    ours, images, ends = reference
    ours.train()
    for module in ours.modules():  # as in evaluation, but all ends answer
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    found = ours(images)
    assert list(found) == ["semantic", "depth_1", "depth_2", "depth_3"]
    for scores, wanted in zip([*list(found.values())[1:], found["semantic"]], ends, strict=True):
        torch.testing.assert_close(scores, wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_answer_is_the_mean_of_the_ends_probabilities(reference):
    ours, images, ends = reference
    wanted = torch.stack([scores.softmax(dim=1) for scores in ends]).mean(dim=0)
    found = ours.eval()(images)
    assert list(found) == ["semantic"]
    torch.testing.assert_close(found["semantic"].softmax(dim=1), wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_pruned_it_answers_with_one_end_and_computes_nothing_deeper(reference, depth):
    ours, images, ends = reference
    pruned = UNetPlusPlus(classes=TWO, channels=32, output=depth).eval()
    pruned.load_state_dict(ours.state_dict())
    run: set[str] = set()
    for name, part in [*pruned.named_modules()]:
        part.register_forward_hook(lambda *_, name=name: run.add(name))
    torch.testing.assert_close(pruned(images)["semantic"], ends[depth - 1], atol=1e-4, rtol=1e-4)
    nodes = {(int(i), int(j)) for i, j in (n.split(".")[1].split("_") for n in run if n.count(".") == 1 and "_" in n)}
    assert nodes == {(i, j) for j in range(1, depth + 1) for i in range(depth + 1 - j)}
    levels = {name for name in run if name.startswith("encoder.levels.") and name.count(".") == 2}
    assert levels == {f"encoder.levels.{i}" for i in range(depth + 1)}
    assert {name for name in run if name.startswith("classifiers.")} == {f"classifiers.{depth}"}


@torch.no_grad()
def test_pruned_an_encoder_of_timm_s_stops_early_too():
    torch.manual_seed(0)
    whole = UNetPlusPlus(classes=TWO, encoder=Choice("test_resnet"), channels=16).eval()
    pruned = UNetPlusPlus(classes=TWO, encoder=Choice("test_resnet"), channels=16, output=2).eval()
    pruned.load_state_dict(whole.state_dict())
    ran = []
    for name, layer in pruned.encoder.body.items():
        layer.register_forward_hook(lambda *_, name=name: ran.append(name))
    images = torch.randn(1, 3, 64, 96)
    nodes = pruned.top(images, depth=2)
    assert [name for name in ran if name.startswith("layer")] == ["layer1", "layer2"]  # strides 4 and 8
    for found, wanted in zip(nodes, whole.top(images, depth=4), strict=False):
        torch.testing.assert_close(found, wanted)
    assert pruned(images)["semantic"].shape == (1, 2, 64, 96)


def test_pruned_it_goes_on_learning_at_every_end():
    model = UNetPlusPlus(classes=TWO, channels=16, output=1)
    losses = iter([1.0, 2.0, 4.0, 9.0])
    images = torch.randn(1, 3, 64, 64)
    targets = Targets(semantic=torch.zeros(1, 64, 64, dtype=torch.int64), instances=[])
    terms = model.losses(model(images), targets, lambda logits, _: logits.mean() * 0 + next(losses))
    assert list(terms) == ["semantic"]
    assert terms["semantic"].item() == pytest.approx(4.0)  # the mean of the four
    terms["semantic"].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_an_encoder_with_fewer_maps_is_less_deep():
    model = UNetPlusPlus(classes=TWO, encoder=Choice("test_convnext"), channels=16)
    assert (model.depth, model.stride) == (3, 32)
    assert model(torch.zeros(2, 3, 64, 96))["semantic"].shape == (2, 2, 64, 96)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"encoder": Choice("test_convnext"), "output": 4}, r"no classifier at depth 4 \(there is at 1, 2, 3\)"),
        ({"deep_supervision": False, "output": 2}, r"no classifier at depth 2 \(there is at 4\)"),
    ],
)
def test_what_has_no_classifier_cannot_answer(options, match):
    with pytest.raises(ConfigError, match=match):
        UNetPlusPlus(classes=TWO, channels=16, **options)


def test_without_deep_supervision_the_deepest_end_is_the_answer():
    model = UNetPlusPlus(classes=TWO, channels=16, deep_supervision=False)
    assert list(model(torch.zeros(2, 3, 64, 64))) == ["semantic"]
    assert list(model.classifiers) == ["4"]
