"""Optimisers and schedules against their formulas."""

import math
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines.training import optim

SCHEDULES = {
    "poly": lambda x: (1 - x) ** 0.9,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "constant": lambda x: 1.0,
}


def rates(steps: int, schedule: str, warmup: float) -> list[float]:
    return [optim.learning_rate(step, steps=steps, base=0.1, schedule=schedule, warmup=warmup) for step in range(steps)]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_linear_warm_up_then_the_formula(schedule):
    found = rates(100, schedule, 0.1)
    assert found[:10] == pytest.approx([0.1 * (i + 1) / 11 for i in range(10)])
    assert found[10] == pytest.approx(0.1), "the base rate is reached when the warm-up ends"
    assert found[10:] == pytest.approx([0.1 * SCHEDULES[schedule](i / 90) for i in range(90)])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_without_a_warm_up_the_first_step_has_the_base_rate(schedule):
    assert rates(50, schedule, 0.0)[0] == 0.1


@given(st.integers(1, 60), st.sampled_from(sorted(SCHEDULES)), st.floats(0, 1))
def test_every_step_moves_and_none_moves_more_than_the_base_rate(steps, schedule, warmup):
    found = rates(steps, schedule, warmup)
    assert all(0 < rate <= 0.1 for rate in found)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_weights_are_decayed_and_biases_and_norms_are_not(name):
    model = network()
    model[3].bias.requires_grad_(False)
    optimizer = optim.build(model, name=name, learning_rate=0.1, weight_decay=0.5)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    found = {n: decay[id(p)] for n, p in model.named_parameters() if id(p) in decay}
    assert found == {
        "0.weight": 0.5, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.0, "2.bias": 0.0, "3.weight": 0.5
    }  # fmt: skip


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_without_a_gradient_is_decay_alone(name):
    model = network()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = optim.build(model, name=name, learning_rate=0.1, weight_decay=0.5)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[n] * (0.95 if p.ndim > 1 else 1.0))


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_an_optimiser_goes_on_where_another_one_stood(name):
    """What a checkpoint holds is all there is."""

    def run(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            torch.manual_seed(step)
            loss = model[3](model[0](torch.randn(2, 3, 8, 8)).mean((2, 3))).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    torch.manual_seed(0)
    through, resumed = network(), network()
    resumed.load_state_dict(through.state_dict())
    one = optim.build(through, name=name, learning_rate=0.01, weight_decay=0.1)
    run(through, one, range(3))
    saved, stood = deepcopy((through.state_dict(), one.state_dict()))  # as on disk
    resumed.load_state_dict(saved)
    two = optim.build(resumed, name=name, learning_rate=0.01, weight_decay=0.1)
    two.load_state_dict(stood)
    run(through, one, range(3, 6))
    run(resumed, two, range(3, 6))
    for a, b in zip(through.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
