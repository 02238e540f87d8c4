"""Repeat factors: what an image has, and how often it then comes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.schema import IGNORE
from pipelines.data.shards import ShardReader
from pipelines.loading.repeats import Repeats, image_factors

FACTORS = np.array([1.0, 1.25, 2.0, 3.9, 1.5, 1.0, 7.31, 1.01, 2.5, 1.75])


def copies(repeats: Repeats, epoch: int) -> np.ndarray:
    return np.diff(repeats.ends(epoch), prepend=0)


def test_an_image_has_the_largest_factor_of_the_classes_that_it_shows(dataset):
    reader = ShardReader(dataset, "train")
    factors = [1.0 + k for k in range(len(reader.manifest.classes))]
    wanted = [max([1.0, *(factors[c] for c in np.unique(r.semantic) if c != IGNORE)]) for r in reader]
    assert len(set(wanted)) > 1
    assert image_factors(reader, factors).tolist() == wanted
    assert image_factors(reader, [1.0] * len(factors)).tolist() == [1.0] * len(reader)


@given(st.lists(st.floats(1, 20), min_size=1, max_size=40), st.integers(0, 9), st.integers(0, 99))
def test_an_image_comes_as_often_as_its_factor_rounded_either_way(factors, seed, epoch):
    repeats = Repeats(np.array(factors), seed=seed)
    found = copies(repeats, epoch)
    assert repeats.expected == pytest.approx(math.fsum(factors), abs=1.01)
    assert repeats.expected <= found.sum() <= repeats.expected + 1, "an epoch is as long as any other"
    assert all(math.floor(f + 1e-6) <= n <= math.ceil(f + 1e-6) for n, f in zip(found, factors, strict=True))


def test_over_the_epochs_it_comes_as_often_as_expected():
    epochs = 2000
    mean = np.mean([copies(Repeats(FACTORS, seed=3), epoch) for epoch in range(epochs)], axis=0)
    part = FACTORS % 1
    assert (np.abs(mean - FACTORS) <= 4.5 * np.sqrt(part * (1 - part) / epochs) + 1e-5).all()


def test_who_is_rounded_up_together_is_chance():
    """Five of ten halves, in no pattern: neighbours as often as any others, in 2 of 9 epochs."""
    halves = Repeats(np.full(10, 1.5), seed=0)
    up = np.array([copies(halves, epoch) == 2 for epoch in range(3000)])
    assert (up.sum(axis=1) == 5).all()
    together = np.mean(up[:, :, None] & up[:, None, :], axis=0)[~np.eye(10, dtype=bool)]
    assert np.abs(together - 2 / 9).max() < 0.035  # more than four times what chance makes of so many


def test_a_draw_is_a_function_of_seed_and_epoch():
    draws = {(s, e): tuple(copies(Repeats(FACTORS, seed=s), e)) for s in range(4) for e in range(4)}
    assert draws == {(s, e): tuple(copies(Repeats(FACTORS, seed=s), e)) for e in range(4) for s in range(4)}
    assert len(set(draws.values())) > 8


def test_a_factor_below_1_is_refused():
    with pytest.raises(ValueError, match=r"a repeat factor is 1 or more, got 0\.5"):
        Repeats(np.array([1.0, 0.5]), seed=0)
