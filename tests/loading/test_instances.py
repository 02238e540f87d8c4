"""What a crop shows of each instance: from run lengths, as from whole masks."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import rle
from pipelines.data.schema import Segment
from pipelines.data.segments import Segments
from pipelines.loading.geometry import draw
from pipelines.loading.instances import MIN_PIXELS, cut

SIDES = st.integers(1, 24)


def segment(mask: np.ndarray, category: int = 1, iscrowd: bool = False) -> Segment:
    return Segment(
        category=category, bbox=rle.bbox(mask), area=int(mask.sum()), iscrowd=iscrowd, counts=rle.encode(mask)
    )


def some_masks(random: np.random.Generator, count: int, height: int, width: int) -> np.ndarray:
    """Noise, rectangles up to the borders (whose runs go on from column to column), full and empty ones."""
    masks = random.random((count, height, width)) < random.random((count, 1, 1))
    for mask in masks[::2]:
        (top, bottom), (left, right) = np.sort(random.integers(0, [[height + 1] * 2, [width + 1] * 2]), axis=1)
        mask[:] = False
        mask[top:bottom, left:right] = True
    return masks


@given(st.integers(0, 9), SIDES, SIDES, SIDES, SIDES, st.integers(0, 10**6))
def test_they_are_what_whole_masks_give(count, height, width, crop_y, crop_x, seed):
    random = np.random.default_rng(seed)
    masks = some_masks(random, count, height, width)
    segments = [segment(m, category=k, iscrowd=k % 3 == 0) for k, m in enumerate(masks)]
    window = draw(Random(seed), (height, width), crop=(crop_y, crop_x), scale=(0.4, 2.5), flip=0.5)
    found = cut(segments, window).dense(crop_y, crop_x)
    wanted = [window.mask(m.view(np.uint8), fill=0).view(bool) for m in masks]
    kept = [k for k, m in enumerate(wanted) if m.sum() >= MIN_PIXELS]
    assert found.labels.tolist() == kept
    assert found.iscrowd.tolist() == [k % 3 == 0 for k in kept]
    assert found.masks.dtype == torch.bool
    assert found.masks.shape == (len(kept), crop_y, crop_x)
    for mask, box, k in zip(found.masks.numpy(), found.boxes.tolist(), kept, strict=True):
        np.testing.assert_array_equal(mask, wanted[k])
        x, y, w, h = rle.bbox(wanted[k])
        assert box == [x, y, x + w, y + h]


@given(st.integers(0, 5), SIDES, SIDES, st.integers(0, 10**6))
def test_pieces_cover_each_mask_once(count, height, width, seed):
    masks = some_masks(np.random.default_rng(seed), count, height, width)
    arrays = Segments.of([segment(m) for m in masks])
    drawn = np.zeros(masks.shape, int)
    for mask, column, top, bottom in zip(*rle.pieces(arrays.counts, arrays.offsets, height, width), strict=True):
        assert top < bottom
        drawn[mask, top:bottom, column] += 1
    np.testing.assert_array_equal(drawn, masks)


def test_runs_that_do_not_fill_the_mask_are_refused():

    with pytest.raises(ValueError, match=r"RLE sum 7 != h\*w 6"):
        rle.pieces(np.array([2, 4, 3, 4], np.uint32), np.array([0, 2, 4]), 2, 3)


def test_a_view_of_segments_is_a_sequence_of_them():
    masks = some_masks(np.random.default_rng(0), 4, 9, 8)
    plain = tuple(segment(m, category=k, iscrowd=k == 2) for k, m in enumerate(masks))
    view = Segments.of(plain)
    assert len(view) == 4
    assert Segments.of(view) is view
    for a, b in zip([*view, view[1], view[-1], *view[1:3]], [*plain, plain[1], plain[-1], *plain[1:3]], strict=True):
        assert (a.category, a.bbox, a.area, a.iscrowd) == (b.category, b.bbox, b.area, b.iscrowd)
        np.testing.assert_array_equal(a.counts, b.counts)
