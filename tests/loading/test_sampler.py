"""The order of samples is a function of (seed, epoch), whoever loads them."""

import tracemalloc
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import DataError
from pipelines.loading.sampler import GlobalBatches


def epoch(sampler: GlobalBatches, number: int) -> list[list[tuple[int, int]]]:
    sampler.epoch = number
    return list(sampler)


def together(samples: int, batch_size: int, world: int, number: int, seed: int = 0) -> list[list[tuple[int, int]]]:
    """The global batches of one epoch, put together again from what each worker sees."""
    shares = [
        epoch(GlobalBatches(samples, batch_size=batch_size, seed=seed, rank=rank, world=world), number)
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
    with pytest.raises(ValueError, match="a global batch of 6 cannot be shared by 4 workers"):
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
