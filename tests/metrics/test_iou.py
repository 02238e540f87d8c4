"""IoU of masks and boxes against pycocotools, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from pipelines.data import rle
from pipelines.metrics import iou


def assert_masks(found: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> None:
    encoded = [[coco.encode(np.asfortranarray(m, np.uint8)) for m in masks] for masks in (found, truth)]
    ours, areas = iou.mask_iou(found, [rle.encode(m) for m in truth], crowd)
    assert np.array_equal(areas, found.sum(axis=(1, 2)))
    assert ours.shape == (len(found), len(truth))
    if ours.size:  # pycocotools has no shape for nothing
        assert np.array_equal(ours, coco.iou(*encoded, crowd.astype(np.uint8)))


@st.composite
def stacks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    height, width = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    found, truth = (draw(arrays(bool, (draw(st.integers(0, 4)), height, width))) for _ in range(2))
    return found, truth, draw(arrays(bool, len(truth)))


@settings(deadline=None, max_examples=200)
@given(stacks())
def test_masks(stack: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    assert_masks(*stack)


@pytest.mark.parametrize("crowded", [False, True])
def test_full_and_empty_masks_side_by_side(crowded: bool) -> None:
    """Full masks touch their neighbours in memory: no run may leak from one into the next."""
    full, empty = np.ones((3, 4), bool), np.zeros((3, 4), bool)
    top, bottom = full.copy(), full.copy()
    top[1:] = bottom[:-1] = False
    patterns = (
        [full, full, full],
        [full, empty, full],
        [empty, full, empty],
        [empty, empty],
        [bottom, top],
        [top, bottom],
    )
    for pattern in patterns:
        masks = np.array(pattern)
        assert_masks(masks, masks, np.full(len(masks), crowded))


def test_many_layers() -> None:
    """Twenty nested truths: each pixel of the innermost belongs to all."""
    size = np.arange(1, 21)[:, None, None]
    y, x = np.ogrid[:20, :24]
    nested = (y < size) & (x < size)
    assert_masks(nested[::3], nested, np.zeros(20, bool))


def test_masks_need_not_be_contiguous() -> None:
    masks = np.random.default_rng(0).random((3, 8, 10)) < 0.5
    assert_masks(np.asfortranarray(masks)[:, ::2, ::-1], masks[:, ::2], np.zeros(3, bool))


@pytest.mark.parametrize("counts", [[0, 20], [12, 1], []])
def test_refuses_truths_of_another_size(counts: list[int]) -> None:
    good, bad = rle.encode(np.ones((3, 4), bool)), np.array(counts, np.uint32)
    with pytest.raises(ValueError, match="truth 1 do not add up to 12 pixels"):
        iou.mask_iou(np.ones((1, 3, 4), bool), [good, bad], np.zeros(2, bool))


# Sides may be zero or, from a careless regression, negative.
BOXES = arrays(np.float64, st.tuples(st.integers(1, 5), st.just(4)), elements=st.floats(-3, 9, width=32))


@settings(deadline=None, max_examples=200)
@given(BOXES, BOXES, st.data())
def test_boxes(found: np.ndarray, truth: np.ndarray, data: st.DataObject) -> None:
    crowd = data.draw(arrays(bool, len(truth)))
    with np.errstate(all="raise"):
        ours = iou.box_iou(found, truth, crowd)
    assert np.array_equal(ours, coco.iou(found, truth, crowd.astype(np.uint8)), equal_nan=True)
