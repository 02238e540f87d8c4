"""Optimisers and learning-rate schedules, by the names that params.yaml gives them."""

import math

import torch
from torch import nn


def build(model: nn.Module, *, name: str, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Biases and the scales of normalisation layers are not decayed (they have one dimension)."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=learning_rate, fused=True)


def learning_rate(step: int, *, steps: int, base: float, schedule: str, warmup: float) -> float:
    """Of step 0 .. steps - 1: a linear warm-up over the first `warmup` of all steps, then the schedule.

    A pure function of the step: there is no scheduler state to lose on resume.
    """
    warm = round(warmup * steps)
    if step < warm:
        return base * (step + 1) / (warm + 1)
    progress = (step - warm) / max(1, steps - warm)
    factors: dict[str, float] = {
        "poly": math.pow(1 - progress, 0.9),
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "constant": 1.0,
    }
    return base * factors[schedule]
