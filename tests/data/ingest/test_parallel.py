"""The map keeps its order, and survives what happens to its processes. The items are expressions for `eval`."""

import multiprocessing
import time

import pytest

from pipelines.data.ingest import parallel
from pipelines.errors import DataError

CRASH = "__import__('ctypes').string_at(0)"
EXIT = "__import__('os')._exit(3)"
HANG = "__import__('time').sleep(600)"
GREED = "len(bytearray(1 << 36))"


def results(items: list[str], **how) -> list:
    got = list(parallel.ordered(eval, items, workers=2, **how))
    assert [item for item, _ in got] == items
    return [result for _, result in got]


def test_results_come_in_the_items_order():
    items = [f"(__import__('time').sleep(0.0{3 - i % 4}), {i})[1]" for i in range(20)]
    assert results(items) == list(range(20))


def test_a_dead_process_costs_its_own_item_alone():
    got = results(["0", CRASH, "2", EXIT, "4", GREED, "6", "1 / 0", "8"])
    assert got[::2] == [0, 2, 4, 6, 8]
    assert str(got[1]) == "the process that read it was killed by SIGSEGV"
    assert str(got[3]) == "the process that read it ended with exit code 3"
    assert isinstance(got[5], MemoryError)
    assert isinstance(got[7], ZeroDivisionError)
    assert "Traceback" in got[7].__notes__[0]  # a bug's origin survives the pipe


def test_a_hanging_process_is_ended():
    started = time.monotonic()
    got = results(["0", HANG, "2", "3"], seconds=0.5)
    assert str(got[1]) == "took longer than 0.5 s"
    assert got[2:] == [2, 3]
    assert time.monotonic() - started < 30


def test_errors_keep_their_faults():
    (got,) = results(["(_ for _ in ()).throw(__import__('pipelines.errors').errors.DataError('a', ['b', 'c'], 'd'))"])
    assert isinstance(got, DataError)
    assert got.faults == ("b", "c")
    assert str(got) == "a\n  - b\n  - c\ndo: d"


def test_results_larger_than_a_pipe_do_not_block():
    assert [len(r) for r in results(["bytes(3_000_000)"] * 6)] == [3_000_000] * 6


def test_no_process_outlives_an_interruption():
    results_so_far = parallel.ordered(eval, ["0", HANG, "2"], workers=2)
    next(results_so_far)
    with pytest.raises(KeyboardInterrupt):
        results_so_far.throw(KeyboardInterrupt)
    assert multiprocessing.active_children() == []


def test_a_function_that_needs_no_isolation_runs_here():
    here = multiprocessing.current_process().pid
    assert [r for _, r in parallel.here(eval, ["__import__('os').getpid()"])] == [here]


def test_no_items_start_no_process():
    assert results([]) == []
