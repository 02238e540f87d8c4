"""Every parameter of every model in one group, an encoder's at the rate of its stage."""

import pytest
import timm
import torch
from torch import nn

from pipelines.errors import ConfigError
from pipelines.models import MODELS
from pipelines.models.crf_layer import WithCRF
from pipelines.models.mix_transformer import MixTransformer
from pipelines.models.semantic.ddrnet23_slim import DualResolution
from pipelines.models.semantic.unet import ContractingPath
from pipelines.training.optimization.parameter_groups import encoder_stages, parameter_groups
from tests.models.test_contract import LEARNING, PARAMS, build


def scale_of(model: nn.Module, **options: float) -> dict[str, float]:
    groups = parameter_groups(model, weight_decay=0.1, **options)
    scales = {p: group["scale"] for group in groups for p in group["params"]}
    return {name: scales[p] for name, p in model.named_parameters()}


def stage_of(encoder: nn.Module) -> dict[str, int]:
    stages = encoder_stages(encoder)
    return {name: stages[p] for name, p in encoder.named_parameters()}


@pytest.mark.parametrize("name", LEARNING)
def test_every_parameter_is_in_one_group_and_the_encoder_s_are_scaled(name):
    with torch.device("meta") if name in ("segnet", "unet") else torch.device("cpu"):
        model = build(name)
    groups = parameter_groups(model, weight_decay=0.1, encoder_rate=0.1, layer_decay=0.5)
    assert sorted(map(id, (p for g in groups for p in g["params"]))) == sorted(map(id, model.parameters()))
    assert all(g["weight_decay"] == (0.1 if p.ndim > 1 else 0.0) for g in groups for p in g["params"])
    scales = scale_of(model, encoder_rate=0.1, layer_decay=0.5)
    encoders = {scale for key, scale in scales.items() if "encoder." in key}
    assert {scale for key, scale in scales.items() if "encoder." not in key} == {1.0}
    assert sorted(encoders) == pytest.approx([0.1 * 0.5**n for n in range(len(encoders), 0, -1)])
    assert len(encoders) >= 4


def test_without_scales_there_are_two_groups_in_every_model():
    assert [g["scale"] for g in parameter_groups(build("unet"), weight_decay=0.1)] == [1.0, 1.0]


def test_a_model_without_parameters_has_one_empty_group():
    (group,) = parameter_groups(build("threshold"), weight_decay=0.1, encoder_rate=0.1)
    assert group["params"] == []


def test_a_crf_behind_a_model_hides_no_encoder():
    model = WithCRF(build("unet"), classes=5, **PARAMS["model"]["crf"] | {"iterations": 2})
    scales = scale_of(model, encoder_rate=0.1)
    assert {key for key, scale in scales.items() if scale == 0.1} == {key for key in scales if "encoder." in key}


def test_a_model_without_an_encoder_is_refused_what_only_an_encoder_has():
    model = nn.Sequential(nn.Linear(2, 2))
    parameter_groups(model, weight_decay=0.1)
    with pytest.raises(ConfigError, match=r"train\.encoder_rate 0\.1.*no encoder\ndo: set both to 1\.0"):
        parameter_groups(model, weight_decay=0.1, encoder_rate=0.1)


def test_what_does_not_learn_is_in_no_group():
    model = build("unet")
    model.classifier.requires_grad_(False)
    learning = {id(p) for g in parameter_groups(model, weight_decay=0.1, encoder_rate=0.1) for p in g["params"]}
    assert learning == {id(p) for p in model.parameters()} - {id(p) for p in model.classifier.parameters()}


# timm's name -> the first word of each stage's parameters, written down from the papers' tables
STAGES = {
    "resnet18": ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"],
    "convnext_atto": ["stem_0 stem_1 stages_0", "stages_1", "stages_2", "stages_3"],
    "regnetx_002": ["stem", "s1", "s2", "s3", "s4"],
    "swin_tiny_patch4_window7_224": ["patch_embed layers_0", "layers_1", "layers_2", "layers_3"],
    "mobilenetv3_large_100": [
        "conv_stem bn1 blocks.0", "blocks.1", "blocks.2", "blocks.3 blocks.4", "blocks.5 blocks.6"
    ],
    "vgg11": [
        "features_0", "features_3", "features_6 features_8", "features_11 features_13", "features_16 features_18"
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_of_timm_s_ends_where_its_features_are_taken(name):
    with torch.device("meta"):
        encoder = timm.create_model(name, features_only=True)
    found = stage_of(encoder)
    for stage, words in enumerate(STAGES[name]):
        for word in words.split():
            mine = {s for key, s in found.items() if key.startswith(f"{word}.")}
            assert mine == {stage}, word
    assert max(found.values()) == len(STAGES[name]) - 1


@pytest.mark.parametrize(
    ("encoder", "count", "first", "last"),
    [
        (ContractingPath(16, 3), 5, "levels.0.", "levels.4."),
        (DualResolution(3, 8), 5, "conv1.", "layer5_."),
        (MixTransformer(32, (1, 1, 1, 1), 3), 4, "patch_embed1.", "norm4."),
    ],
)
def test_the_stages_of_our_own_encoders(encoder, count, first, last):
    found = stage_of(encoder)
    assert set(found.values()) == set(range(count))
    assert {s for key, s in found.items() if key.startswith(first)} == {0}
    assert {s for key, s in found.items() if key.startswith(last)} == {count - 1}


def test_the_table_is_the_one_that_is_trained():
    assert {n for n in MODELS if n not in LEARNING} == {n for n in MODELS if not list(build(n).parameters())}
