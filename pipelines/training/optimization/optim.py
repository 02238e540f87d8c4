"""Optimisers, by the names that params.yaml gives them, in torch's fused forms: one pass over the weights a step."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from pipelines.training.optimization.parameter_groups import parameter_groups


def build(
    model: nn.Module,
    *,
    name: str,
    learning_rate: float,
    weight_decay: float,
    encoder_rate: float = 1.0,
    layer_decay: float = 1.0,
) -> torch.optim.Optimizer:
    """Of a model that is on its device, and cut up where it is to be (`parallel`): both change its parameters.

    `learning_rate` is what `set_rate` begins with.
    """
    groups = parameter_groups(model, weight_decay=weight_decay, encoder_rate=encoder_rate, layer_decay=layer_decay)
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        # Of parts of weights torch has fused Adam alone.
        fused = not any(isinstance(p, DTensor) for p in model.parameters())
        optimizer = torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=fused, foreach=not fused)
    else:
        optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    set_rate(optimizer, learning_rate)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """The learning rate of the coming step, each group's by its scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]
