"""How many workers a group has, as nodes come and go."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cluster.room import Node, workers_held
from pipelines.errors import ConfigError
from pipelines.training.workers import regroup
from pipelines.training.workers.crew import Crew, fitting, smallest


@given(workers=st.integers(1, 24), accumulate=st.integers(1, 6), least=st.integers(1, 24), room=st.integers(0, 40))
def test_the_group_is_the_largest_that_shares_the_passes(workers, accumulate, least, room):
    least, passes = min(least, workers), workers * accumulate
    fit = [size for size in range(1, passes + 1) if not passes % size and least <= size <= workers and size <= room]
    assert fitting(passes, workers=workers, least=least, room=room) == (fit[-1] if fit else 0)
    assert fitting(passes, workers=workers, least=least, room=workers) == workers, "all, where there is room"
    assert smallest(passes, least=least) == min(s for s in range(least, workers + 1) if not passes % s)


def test_a_worker_with_a_gpu_has_it_on_the_node_of_its_cpu():
    nodes = [Node("a", "a", 8, 0), Node("b", "b", 2, 4), Node("c", "c", 16, 1)]
    assert workers_held(nodes, gpu=False) == 26
    assert workers_held(nodes, gpu=True) == 2 + 1


def crew(**changes: int) -> Crew:
    return Crew(**{"passes": 2, "workers": 2, "least": 1, "gpu": False, **changes})


def test_a_ray_of_our_own_holds_what_was_asked_for(ray):
    group = crew()
    assert group.form() == "", "and nothing is said of it"
    assert group.size == 2


def test_a_ray_of_our_own_that_is_too_small_is_refused_at_once(ray):
    """Ray would wait for ever, without a word."""
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"has 2 CPUs, .* free, for 999 workers at least\n.*set train\.workers to 2"):
        crew(passes=999, workers=999, least=999).form()
    assert time.monotonic() - start < 5


def test_fewer_begin_where_there_is_no_room_for_all(ray):
    group = crew(passes=8, workers=4)
    assert group.form() == "room for 2 of 4 workers: these begin, with the same global batches"
    assert group.size == 2


def test_a_request_of_an_earlier_group_ends_no_later_one(ray, tmp_path: Path):
    regroup.ask(tmp_path)
    with crew(size=2).growing(tmp_path, lambda: None):
        assert not regroup.asked(tmp_path)
        regroup.ask(tmp_path)
    assert not regroup.asked(tmp_path)
