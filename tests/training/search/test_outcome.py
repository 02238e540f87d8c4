"""What a search comes to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import RunError
from pipelines.training import memory
from pipelines.training.search import outcome
from pipelines.training.search.record import Record


def trial(
    number: int, score: float | None, epochs: int = 1, *, error: str = "", latency: float | None = None
) -> Record:
    rows = [{"epoch": e, "score": score or 0.0} for e in range(epochs)]
    status = "failed" if score is None else "done"
    return Record(number=number, drawn={}, values={}, rows=rows, status=status, error=error, latency=latency)


def test_the_best_is_one_of_those_that_ran_longest():
    trials = [trial(0, 0.5, 4), trial(1, 0.9, 1), trial(2, 0.6, 4), trial(3, 0.6, 4), trial(4, None, 4, error="x")]
    assert outcome.best(trials).number == 2, "the first of equals"


def test_a_search_in_which_all_fails_says_why():
    with pytest.raises(RunError, match=r"every trial failed; the first one: non-finite loss\ndo: narrow tune\.space"):
        outcome.best([trial(0, None, 0, error="non-finite loss"), trial(1, None, 0, error="other")])


def test_the_best_within_a_latency():
    trials = [trial(0, 0.5, latency=30.0), trial(1, 0.9, latency=90.0), trial(2, 0.4, latency=10.0)]
    assert [outcome.best(trials, most).number for most in (None, 90.0, 89.0, 10.0)] == [1, 1, 0, 2]
    with pytest.raises(RunError, match=r"no trial is within tune\.max_latency 9 ms; the fastest takes 10 ms"):
        outcome.best(trials, 9.0)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), st.sampled_from([1.0, 2.0, 3.0])), max_size=8))
def test_nobody_on_the_front_is_beaten(points):
    front = outcome.front([trial(n, score, latency=ms) for n, (score, ms) in enumerate(points)])
    for n, (score, ms) in enumerate(points):
        better = [(s, t) for s, t in points if (s >= score and t < ms) or (s > score and t <= ms)]
        assert (n in front) == (not better)


def test_what_needed_smaller_micro_batches_needs_them_again():
    small = trial(0, 0.5)
    small.values, small.smaller = {"train.accumulate": 3}, 2
    assert outcome.parameters(small, accumulate=1) == {"train.accumulate": 12}
    assert outcome.parameters(trial(0, 0.5), accumulate=5) == {}


@pytest.mark.parametrize(
    ("error", "ran_out"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate"), True),
        (RuntimeError("shapes do not match"), False),
        (None, False),
    ],
)
def test_memory_that_ran_out_is_known(error, ran_out):
    assert memory.ran_out(error) is ran_out


def test_torch_s_own_word_for_it_is_known():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.ran_out(caught.value)
