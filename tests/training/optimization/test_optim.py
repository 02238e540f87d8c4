"""Optimisers against their formulas."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from pipelines.training.optimization import optim


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


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_rate_reaches_each_group_by_its_scale(name):
    model = nn.ModuleDict({"encoder": nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), "head": nn.Linear(2, 2)})
    optimizer = optim.build(model, name=name, learning_rate=0.1, weight_decay=0.5, encoder_rate=0.5, layer_decay=0.5)
    optim.set_rate(optimizer, 0.2)
    rates = {p: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert [rates[p] for p in model.parameters()] == pytest.approx([0.025] * 2 + [0.05] * 2 + [0.2] * 2)
    before = [p.detach().clone() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()  # decay alone
    for p, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.5 * rates[p] if p.ndim > 1 else 1.0))


@pytest.mark.parametrize(("name", "plain"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_a_fused_step_is_torch_s_plain_one(name, plain):
    torch.manual_seed(0)
    model, other = network(), network()
    other.load_state_dict(model.state_dict())
    ours = optim.build(model, name=name, learning_rate=0.01, weight_decay=0.0)
    options = {"momentum": 0.9} if name == "sgd" else {"weight_decay": 0.0}
    theirs = plain(other.parameters(), lr=0.01, foreach=False, fused=False, **options)
    for _ in range(5):
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        ours.step()
        theirs.step()
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q)
