"""Runs of equal pixels against what is seen pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import runs

SHAPES = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 21))


@given(SHAPES, st.data())
def test_runs_of_masks_begin_and_end_where_their_pixels_do(shape: tuple[int, int, int], data: st.DataObject) -> None:
    """Blocks around the bounds of rows, masks and words."""
    flat = np.zeros(np.prod(shape), bool)
    for start, length in data.draw(st.lists(st.tuples(st.integers(0, 420), st.integers(1, 40)), max_size=8)):
        flat[start : start + length] ^= True
    masks = flat.reshape(shape)
    wanted = []
    for i, mask in enumerate(masks):
        edges = np.diff(np.concatenate([[0], mask.reshape(-1).astype(int), [0]]))
        wanted += [(i, a, b) for a, b in zip(np.flatnonzero(edges > 0), np.flatnonzero(edges < 0), strict=True)]
    assert list(zip(*(column.tolist() for column in runs.of_masks(masks)), strict=True)) == wanted


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 20)), max_size=12), st.integers(0, 3))
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "int64"])
def test_changes_of_any_pixels(dtype: str, blocks: list[tuple[int, int]], channels: int) -> None:
    """Of no channels or some, of which one alone may change."""
    values = np.array([value for value, length in blocks for _ in range(length)], int)
    pixels = np.stack([values >> 1, values & 1, values * 0], axis=-1).astype(dtype)[:, :channels]
    if not channels:
        pixels = values.astype(dtype)
    wanted = [i for i in range(1, len(pixels)) if not np.array_equal(pixels[i], pixels[i - 1])]
    assert runs.changes(pixels).tolist() == wanted
    start, value = runs.of_pixels(pixels[None])
    assert np.array_equal(np.repeat(value, np.diff(start, append=len(pixels)), axis=0), pixels)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.permutations(range(1, 8)), st.integers(0, 7))
def test_places_are_looked_up(values: list[int], order: list[int], count: int) -> None:
    known = order[:count]
    labels, strange = runs.places(np.array(values, np.uint32)[None], known)
    assert labels.tolist() == [[known.index(v) + 1 if v in known else 0 for v in values]]
    assert strange == sorted({v for v in values if v and v not in known})
