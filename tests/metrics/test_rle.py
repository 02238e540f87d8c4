"""Run-length masks against pycocotools, to the byte: what we store is what every COCO tool reads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from pipelines.data import rle

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside pycocotools
MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
CORNERS = [np.full(size, value) for size in ((1, 1), (1, 7), (7, 1), (5, 6)) for value in (False, True)]
CORNERS += [np.eye(4, dtype=bool), ~np.eye(4, dtype=bool), np.arange(20).reshape(4, 5) % 2 == 0]


def as_coco(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask, np.uint8))


def assert_same(mask: np.ndarray) -> None:
    counts = rle.encode(mask)
    height, width = mask.shape
    assert counts.dtype == np.uint32
    assert coco.frPyObjects({"size": [height, width], "counts": counts.tolist()}, height, width) == as_coco(mask)
    assert rle.area(counts) == coco.area(as_coco(mask)) == mask.sum()
    assert rle.bbox(mask) == tuple(coco.toBbox(as_coco(mask)))
    back = rle.decode(counts, height, width)
    assert back.dtype == bool
    assert np.array_equal(back, mask)


@pytest.mark.parametrize("mask", CORNERS, ids=lambda m: f"{m.shape[0]}x{m.shape[1]}-{int(m.sum())}")
def test_corners(mask: np.ndarray) -> None:
    assert_same(mask)


@settings(deadline=None, max_examples=100)
@given(MASKS)
def test_any_mask(mask: np.ndarray) -> None:
    assert_same(mask)


@settings(deadline=None, max_examples=50)
@given(MASKS)
def test_memory_order_of_the_mask_does_not_matter(mask: np.ndarray) -> None:
    expected = rle.encode(mask)
    for same in (np.asfortranarray(mask), np.repeat(mask, 2, axis=0)[::2], mask.astype(np.uint8)):
        assert np.array_equal(rle.encode(same), expected)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_decodes_zero_runs_as_coco_does(runs: list[int]) -> None:
    """Other writers leave empty runs in; they mean nothing."""
    width = sum(runs)
    if width:
        theirs = coco.decode(coco.frPyObjects({"size": [1, width], "counts": runs}, 1, width))
        assert np.array_equal(rle.decode(np.array(runs), 1, width), theirs)
        assert rle.area(np.array(runs)) == theirs.sum()


@pytest.mark.parametrize("counts", [[5], [3, 4], [], [7, -1]])
def test_refuses_runs_that_do_not_fill_the_mask(counts: list[int]) -> None:
    with pytest.raises(ValueError, match="RLE sum"):
        rle.decode(np.array(counts, np.int64), 2, 3)
