"""The Hungarian matching: against all permutations."""

from itertools import permutations

import pytest
import torch

from pipelines.models.matching import match


@pytest.mark.parametrize(("queries", "truths"), [(6, 4), (5, 5), (3, 5), (4, 1)])
def test_no_other_assignment_costs_less(queries, truths):
    costs = torch.randn(4, queries, truths, generator=torch.Generator().manual_seed(0))
    few, many = sorted((queries, truths))
    for pairs, cost in zip(match(costs), costs, strict=True):
        rows, columns = pairs
        assert len(rows) == len(set(rows.tolist())) == len(set(columns.tolist())) == few
        wide = cost if queries == few else cost.T
        least = min(wide[range(few), list(chosen)].sum().item() for chosen in permutations(range(many), few))
        assert cost[rows, columns].sum().item() == pytest.approx(least, abs=1e-5)


def test_without_a_truth_nobody_is_matched():
    assert match(torch.zeros(3, 5, 0)).shape == (3, 2, 0)


def test_broken_costs_do_not_stop_it():
    """The loss that they come from is not finite either, and that stops the run with a better message."""
    assert match(torch.full((1, 3, 2), torch.nan)).shape == (1, 2, 2)
