"""Learning rates against their formulas, and one-cycle against torch's scheduler."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.optimization import schedule

FORMULAS = {
    "poly": lambda x: (1 - x) ** 0.9,
    "cosine": lambda x: (1 + math.cos(math.pi * x)) / 2,
    "constant": lambda x: 1.0,
}


def rates(steps: int, name: str, warmup: float) -> list[float]:
    return [schedule.learning_rate(step, steps=steps, base=0.1, schedule=name, warmup=warmup) for step in range(steps)]


def torchs_one_cycle(steps: int, warmup: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps, pct_start=warmup)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(found) < steps:
            scheduler.step()
    return found


@pytest.mark.parametrize("name", FORMULAS)
def test_a_linear_warm_up_then_the_formula(name):
    found = rates(100, name, 0.1)
    assert found[:10] == pytest.approx([0.1 * (i + 1) / 11 for i in range(10)])
    assert found[10] == pytest.approx(0.1), "the base rate is reached when the warm-up ends"
    assert found[10:] == pytest.approx([0.1 * FORMULAS[name](i / 90) for i in range(90)])


@pytest.mark.parametrize("name", FORMULAS)
def test_without_a_warm_up_the_first_step_has_the_base_rate(name):
    assert rates(50, name, 0.0)[0] == 0.1


@given(st.integers(2, 80), st.floats(0, 1))
def test_one_cycle_is_torch_s(steps, warmup):
    if warmup * steps != 1:  # there torch divides by zero
        assert rates(steps, "one_cycle", warmup) == pytest.approx(torchs_one_cycle(steps, warmup), rel=1e-9)


def test_one_cycle_whose_peak_is_its_first_step_begins_there():
    assert rates(10, "one_cycle", 0.1)[0] == 0.1


@given(st.integers(1, 60), st.sampled_from([*FORMULAS, "one_cycle"]), st.floats(0, 1))
def test_every_step_moves_up_to_the_top_and_down_from_there(steps, name, warmup):
    found = rates(steps, name, warmup)
    assert all(0 < rate <= 0.1 * (1 + 1e-12) for rate in found)
    top = found.index(max(found))
    assert found[: top + 1] == sorted(found[: top + 1])
    assert found[top:] == sorted(found[top:], reverse=True)


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 9), ("sqrt", 3)])
def test_the_rate_grows_with_the_batch_as_asked(scaling, factor):
    found = schedule.base_rate(0.01, scaling=scaling, batch_size=72, reference_batch=8)
    assert found == pytest.approx(0.01 * factor)
    assert schedule.base_rate(0.01, scaling=scaling, batch_size=8, reference_batch=8) == 0.01
