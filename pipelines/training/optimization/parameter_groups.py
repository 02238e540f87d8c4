"""Which of a model's parameters learn how fast, and which are decayed.

Biases and the scales of normalisation layers are not decayed: they have one dimension. An encoder that knows something
already learns more slowly than what stands on it (`encoder_rate`), its early stages, which know what is the same in
all images, more slowly still: with `layer_decay` the last stage has that factor once, the one before it twice, and so
on, as in BEiT (arXiv 2106.08254), by stages as ConvNeXt's pyramids have them rather than by single layers.
"""

import re
from typing import Any

from torch import nn

from pipelines.errors import ConfigError

Group = dict[str, Any]  # of an optimiser of torch; `scale` is of the learning rate


def parameter_groups(
    model: nn.Module, *, weight_decay: float, encoder_rate: float = 1.0, layer_decay: float = 1.0
) -> list[Group]:
    """Each parameter that learns in exactly one group, the groups in an order that follows from the model alone."""
    scales = _encoder_scales(model, encoder_rate, layer_decay)
    groups: dict[tuple[float, float], Group] = {}
    for p in model.parameters():
        if p.requires_grad:
            scale, decay = scales.get(p, 1.0), weight_decay if p.ndim > 1 else 0.0
            group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, "scale": scale})
            group["params"].append(p)
    # A model without weights has none, and an optimiser that does nothing.
    return list(groups.values()) or [{"params": [], "weight_decay": 0.0, "scale": 1.0}]


def _encoder_scales(model: nn.Module, encoder_rate: float, layer_decay: float) -> dict[nn.Parameter, float]:
    if (encoder_rate == 1 and layer_decay == 1) or not any(True for _ in model.parameters()):
        return {}
    if (encoder := encoder_of(model)) is None:
        asked = f"train.encoder_rate {encoder_rate}, train.layer_decay {layer_decay}"
        raise ConfigError(
            f"{asked}: {type(model).__name__} has no encoder",
            do="set both to 1.0, or choose a model with an encoder",
        )
    stages = encoder_stages(encoder)
    count = 1 + max(stages.values())
    return {p: encoder_rate * layer_decay ** (count - stage) for p, stage in stages.items()}


def encoder_of(model: nn.Module) -> nn.Module | None:
    """The outermost module that is called so: some models stand on another one, which has it."""
    found = [name for name, _ in model.named_modules() if name.split(".")[-1] == "encoder"]
    return model.get_submodule(min(found, key=lambda name: name.count("."))) if found else None


def encoder_stages(encoder: nn.Module) -> dict[nn.Parameter, int]:
    """The stage of each parameter, from 0, the stem's.

    timm says after which layers its feature maps are taken, and there a stage ends; in our own encoders the first
    number in a layer's name is its stage.
    """
    body = encoder.get_submodule("body") if hasattr(encoder, "body") else encoder
    info = getattr(body, "feature_info", None)
    stages = _numbered(body) if info is None else _up_to(body, [_plain(name) for name in info.module_name()])
    present = sorted(set(stages.values()))
    return {p: present.index(stage) for p, stage in stages.items()}


def _numbered(body: nn.Module) -> dict[nn.Parameter, int]:
    numbers = {p: re.search(r"\d+", name) for name, p in body.named_parameters()}
    return {p: int(number[0]) if number else 0 for p, number in numbers.items()}


def _up_to(body: nn.Module, ends: list[str]) -> dict[nn.Parameter, int]:
    """Layers are defined in the order in which they are run: one is of the first stage whose end has not been left."""
    stages: dict[nn.Parameter, int] = {}
    passed, inside = 0, ""
    for name, module in body.named_modules():
        if inside and not f"{_plain(name)}_".startswith(f"{inside}_"):
            passed, inside = passed + 1, ""
        if _plain(name) in ends:
            inside = _plain(name)
        for p in module.parameters(recurse=False):
            stages.setdefault(p, passed)
    return stages


def _plain(name: str) -> str:
    """timm's feature extractors flatten the names of some layers: `stages.0` becomes `stages_0`."""
    return name.replace(".", "_")
