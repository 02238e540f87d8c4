"""The average against its formula, and against torch's own."""

import time

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from pipelines.training.optimization.ema import Average
from tests.models.test_contract import build, images_of


class Shared(nn.Module):
    """Two names for one weight, a float buffer, a counter, a buffer that is kept nowhere."""

    def __init__(self):
        super().__init__()
        self.one = nn.Linear(3, 3)
        self.two = nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("grid", torch.arange(3.0), persistent=False)
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)


def wander(model: nn.Module, seed: int) -> None:
    """Somewhere else, as after a step."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for value in {id(v): v for v in model.state_dict(keep_vars=True).values()}.values():
            value.add_(torch.randn_like(value) if value.is_floating_point() else 1)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.999])
def test_it_is_the_formula(decay):
    model = Shared()
    average = Average(model, decay)
    expected = {name: value.double() for name, value in model.state_dict().items() if value.is_floating_point()}
    for t in range(30):
        wander(model, t)
        average.update()
        d = min(decay, (1 + t) / (10 + t))
        for name, value in expected.items():
            expected[name] = d * value + (1 - d) * model.state_dict()[name].double()
    found = average.state_dict()
    assert found["updates"] == 30
    assert found["weights"].keys() == model.state_dict().keys(), "all that a model is loaded from"
    for name, value in expected.items():
        torch.testing.assert_close(found["weights"][name].double(), value, rtol=1e-5, atol=1e-6)
    model.load_state_dict(found["weights"])


def test_it_is_torch_s_with_the_same_decay():
    model = build("bisenet")

    def as_ours(averages: list, values: list, counted: torch.Tensor) -> None:
        t = int(counted) - 1  # torch's first update is a copy
        for average, value in zip(averages, values, strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - min(0.9, (1 + t) / (10 + t)))

    theirs, ours = AveragedModel(model, multi_avg_fn=as_ours, use_buffers=True), Average(model, 0.9)
    theirs.update_parameters(model)
    for step in range(12):
        wander(model, step)
        ours.update()
        theirs.update_parameters(model)
    expected = theirs.module.state_dict()
    for name, value in ours.state_dict()["weights"].items():
        if value.is_floating_point():  # torch counts batches too
            assert torch.equal(value, expected[name]), name


def test_an_average_of_what_stands_still_is_that():
    model = build("unet")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = Average(model, 0.99)
    for _ in range(5):
        average.update()
    assert all(torch.equal(value, before[name]) for name, value in average.state_dict()["weights"].items())


def test_a_model_has_it_for_a_while_and_then_its_own_weights_and_modes():
    model = build("unet").train()
    model.classifier.eval()
    average = Average(model, 0.9)
    wander(model, 0)
    average.update()
    own = {name: value.clone() for name, value in model.state_dict().items()}
    pointers = [value.data_ptr() for value in model.state_dict().values()]
    with average.swapped() as swapped:
        weights = average.state_dict()["weights"]
        assert all(torch.equal(value, weights.get(name, own[name])) for name, value in swapped.state_dict().items())
        assert not torch.equal(swapped.classifier.weight, own["classifier.weight"])
    with pytest.raises(AttributeError), average.swapped():
        _ = model.eval().no_such_layer
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    assert [value.data_ptr() for value in model.state_dict().values()] == pointers, "what optimisers hold on to"
    assert model.training
    assert model.encoder.training
    assert not model.classifier.training


def test_gradients_outlive_a_swap():
    model = build("unet")
    average = Average(model, 0.9)
    loss = model(images_of(1))["semantic"].square().mean()
    loss.backward()
    before = [p.grad.clone() for p in model.parameters()]
    with average.swapped():
        pass
    assert all(torch.equal(p.grad, old) for p, old in zip(model.parameters(), before, strict=True))


def test_it_goes_on_where_it_stood():
    through, resumed = Shared(), Shared()
    one = Average(through, 0.9)
    for step in range(3):
        wander(through, step)
        one.update()
    saved = one.state_dict()
    resumed.load_state_dict(through.state_dict())
    two = Average(resumed, 0.9)
    two.load_state_dict(saved)
    for step in range(3, 6):
        wander(through, step)
        wander(resumed, step)
        one.update()
        two.update()
    first, second = one.state_dict(), two.state_dict()
    assert first["updates"] == second["updates"] == 6
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())


def test_another_model_s_average_is_refused():
    with pytest.raises(ValueError, match="an average of another model"):
        Average(build("unet"), 0.9).load_state_dict(Average(Shared(), 0.9).state_dict())


def test_it_costs_next_to_nothing():
    """Of CPU time, beside a step of a small network."""
    model = build("unet").train()
    average, images = Average(model, 0.999), images_of(8, 128, 128)

    def cost(work) -> float:
        work()
        times = []
        for _ in range(3):
            started = time.process_time()
            work()
            times.append(time.process_time() - started)
        return min(times)

    step = cost(lambda: model(images)["semantic"].square().mean().backward())
    update = cost(lambda: [average.update() for _ in range(5)]) / 5
    print(f"update {update * 1e3:.2f} ms, step {step * 1e3:.1f} ms: {update / step:.4f}")
    assert update < 0.01 * step
