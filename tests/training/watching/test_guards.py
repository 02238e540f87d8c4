"""What a training must not go on from: held against numpy, and against the sentence that a user reads."""

import random

import numpy as np
import pytest
import torch

from pipelines.errors import RunError
from pipelines.training.watching import guards
from pipelines.training.watching.guards import Spikes, Stragglers


def test_a_spike_is_a_loss_far_above_the_median_of_the_last_64():
    losses = np.random.default_rng(0).lognormal(0, 1, 500)
    spikes = Spikes(3.0)
    for i, loss in enumerate(losses):
        window = losses[max(0, i - 64) : i]
        expected = len(window) >= 16 and loss > 3.0 * np.median(window)
        assert spikes.looks_like_a_spike(loss) == expected, i
        spikes.add(loss)


def test_factor_0_turns_it_off():
    spikes = Spikes(0.0)
    for _ in range(100):
        spikes.add(1.0)
    assert not spikes.looks_like_a_spike(1e9)


def test_spikes_go_on_exactly_after_a_resume():
    losses = [random.Random(1).expovariate(1) for _ in range(300)]
    one, two = Spikes(2.0), Spikes(2.0)
    found = []
    for i, loss in enumerate(losses):
        if i == 150:
            resumed = Spikes(2.0)
            resumed.load_state_dict(two.state_dict())
            two = resumed
        found.append((one.looks_like_a_spike(loss), two.looks_like_a_spike(loss)))
        one.add(loss)
        two.add(loss)
    assert all(a == b for a, b in found)
    assert one.state_dict() == two.state_dict()


def test_a_rank_that_falls_behind_is_named_once_per_window():
    ranks = [Stragglers(10) for _ in range(4)]
    said = []
    for step in range(30):
        full = [own.add(0.5 if rank == 2 and step >= 10 else 0.2) for rank, own in enumerate(ranks)]
        if full[0] is not None:
            said.append(guards.stragglers([seconds for seconds in full if seconds is not None]))
    assert said[0] == []
    assert [len(each) for each in said[1:]] == [1, 1]
    assert said[1][0].startswith("rank 2 falls behind: 0.5 s per step against 0.2 s of the others")


def test_one_slow_step_is_no_straggler_and_one_rank_none():
    ranks = [Stragglers(10) for _ in range(2)]
    for step in range(9):
        for rank, own in enumerate(ranks):
            own.add(30.0 if rank == 0 and step == 4 else 0.2)
    assert guards.stragglers([own.add(0.2) or 0 for own in ranks]) == []
    assert guards.stragglers([5.0]) == []


SAME = {"conv.weight": [8, 3, 3, 3], "conv.bias": [8]}


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"conv.weight": [8, 3, 3, 3]}, "conv.bias is missing on rank 1"),
        ({**SAME, "head": [1]}, "head is on rank 1 alone"),
        ({**SAME, "conv.bias": [9]}, r"conv.bias is \[9\] on rank 1 and \[8\] on rank 0"),
        (dict(reversed(SAME.items())), "rank 1 holds them in another order"),
    ],
)
def test_unequal_ranks_are_refused(other, said):
    with pytest.raises(RunError, match=f"the ranks differ in their parameters: {said}"):
        guards.same_keys("parameters", [SAME, other])


def test_equal_ranks_pass_and_a_long_difference_is_cut():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(4, 2))
    found = guards.shapes(model.named_parameters())
    assert found == {"0.weight": [8, 3, 3, 3], "0.bias": [8], "1.weight": [2, 4], "1.bias": [2]}
    guards.same_keys("parameters", [found, dict(found), dict(found)])
    with pytest.raises(RunError, match="and 15 more"):
        guards.same_keys("loss terms", [{}, {f"t{i}": [] for i in range(20)}])
