"""A shuffle of any size: each sample once, in an order in which none is likelier than another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipelines.loading.permutation import Permutation


@given(st.integers(1, 3000), st.integers(0, 2**32), st.integers(0, 50))
def test_each_sample_comes_once(samples, seed, epoch):
    order = Permutation(samples, [seed, epoch])(np.arange(samples))
    np.testing.assert_array_equal(np.sort(order), np.arange(samples))


@pytest.mark.parametrize("samples", [2**16 - 1, 2**16, 2**16 + 1, 10**6])
def test_so_it_does_where_the_power_of_two_is_near(samples):
    order = Permutation(samples, [0])(np.arange(samples))
    assert np.bincount(order, minlength=samples).max() == 1


def test_a_place_is_the_same_asked_alone():
    permutation = Permutation(10**8, [1, 2])
    places = np.array([0, 1, 99_999_999, 31_415_926])
    assert permutation(places).tolist() == [int(permutation(places[i : i + 1])[0]) for i in range(4)]
    assert permutation(places).tolist() != Permutation(10**8, [1, 3])(places).tolist()


@pytest.mark.parametrize("samples", [2, 3, 5, 8, 12, 31])
def test_over_the_epochs_all_places_and_all_neighbours_are_as_likely(samples):
    epochs = 3000
    places, pairs = np.zeros((samples, samples)), np.zeros((samples, samples))
    for epoch in range(epochs):
        order = Permutation(samples, [7, epoch])(np.arange(samples))
        places[np.arange(samples), order] += 1
        np.add.at(pairs, (order[:-1], order[1:]), 1)
    apart = ~np.eye(samples, dtype=bool)
    expected = epochs / samples
    # Every row and every column of `places` sums to the epochs.
    chi_places = ((places - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(chi_places, (samples - 1) ** 2) > 1e-4
    if samples > 3:
        expected = epochs * (samples - 1) / apart.sum()
        chi_pairs = ((pairs[apart] - expected) ** 2 / expected).sum()
        assert stats.chi2.sf(chi_pairs, apart.sum() - 1) > 1e-4


def test_one_order_is_no_run_of_neighbours():
    order = Permutation(100_000, [0])(np.arange(100_000))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.015
    assert stats.kstest(np.abs(np.diff(order)) / 100_000, "triang", (0, 0, 1)).pvalue > 1e-3
