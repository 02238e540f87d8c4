"""Runs of equal pixels against what is seen pixel by pixel."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import runs


@st.composite
def sparse(draw: st.DrawFn) -> np.ndarray:
    """Blocks that begin and end at, before and behind the bounds of pieces."""
    flat = np.zeros(draw(st.integers(1, 6 * runs.PIECE)), bool)
    bounds = st.builds(lambda piece, beside: piece * runs.PIECE + beside, st.integers(0, 6), st.integers(-2, 2))
    for start, end in draw(st.lists(st.tuples(bounds, bounds), max_size=4)):
        flat[max(start, 0) : max(end, 0)] ^= True
    return flat


@given(sparse())
def test_changes_are_found_where_pieces_meet_too(flat: np.ndarray) -> None:
    wanted = [i for i in range(1, flat.size) if flat[i] != flat[i - 1]]
    assert sorted(runs.changes_of_sparse(flat).tolist()) == wanted


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.permutations(range(1, 8)), st.integers(0, 7))
def test_places_are_looked_up(values: list[int], order: list[int], count: int) -> None:
    known = order[:count]
    labels, strange = runs.places(np.array(values, np.uint32)[None], known)
    assert labels.tolist() == [[known.index(v) + 1 if v in known else 0 for v in values]]
    assert strange == sorted({v for v in values if v and v not in known})
