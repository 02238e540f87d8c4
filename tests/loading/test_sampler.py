"""The order of samples is a function of (seed, epoch), whoever loads them."""

import tracemalloc
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import DataError
from pipelines.loading.sampler import GlobalBatches


def epoch(sampler: GlobalBatches, number: int) -> list[list[tuple[int, int]]]:
    sampler.epoch = number
    return list(sampler)


def together(
    samples: int, batch_size: int, world: int, number: int, seed: int = 0, factors: np.ndarray | None = None
) -> list[list[tuple[int, int]]]:
    """The global batches of one epoch, put together again from what each worker sees."""
    shares = [
        epoch(GlobalBatches(samples, batch_size=batch_size, seed=seed, rank=rank, world=world, factors=factors), number)
        for rank in range(world)
    ]
    return [list(chain.from_iterable(zip(*parts, strict=True))) for parts in zip(*shares, strict=True)]


SIZES = st.tuples(st.integers(1, 60), st.integers(1, 4).map(lambda n: 4 * n), st.integers(0, 5), st.integers(0, 3))


@given(SIZES)
def test_one_two_and_four_workers_see_the_same_global_batches(sizes):
    samples, batch_size, number, seed = sizes
    alone = together(samples, batch_size, 1, number, seed)
    assert together(samples, batch_size, 2, number, seed) == alone
    assert together(samples, batch_size, 4, number, seed) == alone


@given(SIZES, st.integers(0, 3))
def test_the_passes_over_a_batch_are_the_same_whoever_makes_them(sizes, start):
    samples, batch_size, number, seed = sizes

    def passes(world: int) -> list[list[tuple[int, int]]]:
        """Of an epoch from a batch on, in the order in which the ranks make them together."""
        ranks = []
        for rank in range(world):
            sampler = GlobalBatches(samples, batch_size=batch_size, seed=seed, rank=rank, world=world, passes=4)
            sampler.epoch = number
            ranks.append(list(sampler.starting(min(start, len(sampler)))))
        return list(chain.from_iterable(zip(*ranks, strict=True)))

    alone = passes(1)
    assert {len(each) for each in alone} <= {batch_size // 4}
    assert passes(2) == passes(4) == alone
    batches = [sorted(chain.from_iterable(alone[i : i + 4])) for i in range(0, len(alone), 4)]
    assert batches == [sorted(b) for b in together(samples, batch_size, 1, number, seed)[start:]]


@given(SIZES)
def test_an_epoch_holds_each_sample_once_except_the_rest(sizes):
    samples, batch_size, number, seed = sizes
    sampler = GlobalBatches(samples, batch_size=batch_size, seed=seed)
    batches = epoch(sampler, number)
    assert len(batches) == len(sampler) == max(1, samples // batch_size)
    assert {len(b) for b in batches} == {batch_size}
    drawn = [index for batch in batches for _, index in batch]
    assert {e for batch in batches for e, _ in batch} == {number}
    times = [drawn.count(i) for i in range(samples)]
    assert sum(times) == len(drawn), "an index outside the dataset"
    if samples >= batch_size:
        assert max(times) == 1
    else:  # repeated to fill the one batch, as evenly as can be
        assert max(times) - min(times) <= 1


def test_every_epoch_and_every_seed_has_its_own_order():
    orders = [epoch(GlobalBatches(64, batch_size=8, seed=seed), number) for seed in range(3) for number in range(3)]
    plain = [tuple(index for batch in order for _, index in batch) for order in orders]
    assert len(set(plain)) == len(plain)
    assert epoch(GlobalBatches(64, batch_size=8, seed=1), 2) == epoch(GlobalBatches(64, batch_size=8, seed=1), 2)


def test_the_incomplete_batch_that_is_left_out_is_another_each_epoch():
    sampler = GlobalBatches(10, batch_size=8, seed=0)
    seen = [{index for batch in epoch(sampler, number) for _, index in batch} for number in range(12)]
    assert set().union(*seen) == set(range(10))
    assert all(len(s) == 8 for s in seen)


def test_an_order_does_not_depend_on_the_epochs_before():
    resumed, through = GlobalBatches(20, batch_size=4, seed=0), GlobalBatches(20, batch_size=4, seed=0)
    for number in range(3):
        epoch(through, number)
    assert epoch(resumed, 3) == epoch(through, 3)


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="a global batch of 6 cannot be seen in 4 passes that 4 workers share"):
        GlobalBatches(10, batch_size=6, seed=0, world=4)


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(DataError, match="the training split has no images"):
        GlobalBatches(0, batch_size=6, seed=0)


@given(SIZES, st.integers(0, 30))
def test_an_epoch_can_start_anywhere(sizes, start):
    samples, batch_size, number, seed = sizes
    sampler = GlobalBatches(samples, batch_size=batch_size, seed=seed, world=2)
    whole = epoch(sampler, number)
    assert list(sampler.starting(start)) == whole[start:]


def test_a_hundred_million_samples_cost_no_more_than_a_few():
    sampler = GlobalBatches(10**8, batch_size=8, seed=0)
    tracemalloc.start()
    batches = sampler.starting(12_499_990)
    last = list(batches)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(last) == 10
    assert peak < 10_000_000


def factors_of(samples: int, seed: int) -> np.ndarray:
    """Half of the images come once, the others up to four times."""
    random = np.random.default_rng(seed)
    return np.where(random.random(samples) < 0.5, 1.0, random.uniform(1, 4, samples))


@given(SIZES)
def test_with_repeats_too_one_two_and_four_workers_see_the_same_global_batches(sizes):
    samples, batch_size, number, seed = sizes
    factors = factors_of(samples, seed)
    alone = together(samples, batch_size, 1, number, seed, factors)
    assert together(samples, batch_size, 2, number, seed, factors) == alone
    assert together(samples, batch_size, 4, number, seed, factors) == alone


@given(SIZES, st.integers(0, 30))
def test_with_repeats_too_an_epoch_can_start_anywhere(sizes, start):
    samples, batch_size, number, seed = sizes
    sampler = GlobalBatches(samples, batch_size=batch_size, seed=seed, world=2, factors=factors_of(samples, seed))
    whole = epoch(sampler, number)
    assert list(sampler.starting(start)) == whole[start:]


@given(SIZES)
def test_an_epoch_has_the_batches_of_the_expected_images(sizes):
    samples, batch_size, number, seed = sizes
    factors = factors_of(samples, seed)
    sampler = GlobalBatches(samples, batch_size=batch_size, seed=seed, factors=factors)
    batches = epoch(sampler, number)
    expected = int(np.rint(factors * 2**20).sum() / 2**20)
    assert len(batches) == len(sampler) == max(1, expected // batch_size)
    drawn = [index for batch in batches for _, index in batch]
    if expected >= batch_size:
        assert len(set(drawn)) == len(drawn), "each copy is a sample of its own"
    times = np.bincount(np.array(drawn) % samples, minlength=samples)
    if expected >= batch_size:
        assert (times <= np.ceil(factors)).all()
    assert set(drawn) <= {k * samples + i for i in range(samples) for k in range(int(np.ceil(factors[i])))}


def test_an_epoch_of_repeats_shows_each_image_as_often_as_its_factor():
    factors = factors_of(50, 1)
    sampler = GlobalBatches(50, batch_size=1, seed=0, factors=factors)
    drawn = np.concatenate([np.array(epoch(sampler, number))[:, 0, 1] % 50 for number in range(400)])
    times = np.bincount(drawn, minlength=50) / 400
    assert np.abs(times - factors).max() < 0.13  # one image of an epoch may be left out, and five times the deviation


def test_factors_of_1_change_no_batch():
    for number in range(3):
        plain, ones = (GlobalBatches(37, batch_size=4, seed=5, factors=f) for f in (None, np.ones(37)))
        assert epoch(ones, number) == epoch(plain, number)
