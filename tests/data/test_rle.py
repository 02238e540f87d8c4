"""Run lengths against COCO's own tools, and masks combined against the masks themselves."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco

from pipelines.data import rle
from pipelines.data.faults import FaultError

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
MASKS = SIZES.flatmap(lambda size: arrays(bool, size))
PAIRS = SIZES.flatmap(lambda size: st.tuples(arrays(bool, size), arrays(bool, size), arrays(bool, size)))


@given(MASKS)
def test_strings_are_those_of_coco(mask):
    published = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    counts = rle.encode(mask)
    assert rle.to_string(counts) == published
    np.testing.assert_array_equal(rle.from_string(published, *mask.shape), counts)


@pytest.mark.parametrize("seed", range(5))
def test_strings_of_large_masks(seed):
    rng = np.random.default_rng(seed)
    mask = np.repeat(rng.random(3000) < 0.5, rng.integers(1, 5000, 3000))[: 2000 * 1500].copy()
    mask.resize(2000 * 1500)
    mask = mask.reshape(1500, 2000).T
    published = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert rle.to_string(rle.encode(mask)) == published
    np.testing.assert_array_equal(rle.from_string(published, 2000, 1500), rle.encode(mask))


@given(MASKS)
def test_lists_and_boxes(mask):
    counts = rle.encode(mask)
    np.testing.assert_array_equal(rle.from_list(counts.tolist(), *mask.shape), counts)
    assert rle.box(counts, mask.shape[0]) == rle.bbox(mask)
    x, y, width, height = rle.bbox(mask)
    found_x, found_y, inside = rle.cropped(counts, mask.shape[0])
    assert (found_x, found_y) == (x, y)
    assert np.array_equal(inside, mask[y : y + height, x : x + width])


def test_runs_of_no_length_are_left_out():
    np.testing.assert_array_equal(rle.from_list([2, 0, 1, 3, 0, 2, 0], 2, 4), [3, 5])
    np.testing.assert_array_equal(rle.from_list([8, 0], 2, 4), [8])
    np.testing.assert_array_equal(rle.from_list([0, 8], 2, 4), [0, 8])


@given(PAIRS)
def test_masks_are_combined(masks):
    a, b, c = masks
    counts = [rle.encode(mask) for mask in masks]
    np.testing.assert_array_equal(rle.union(counts), rle.encode(a | b | c))
    np.testing.assert_array_equal(rle.union(counts[:1]), counts[0])
    np.testing.assert_array_equal(rle.without(counts[0], counts[1]), rle.encode(a & ~b))


@given(st.lists(st.integers(0, 200)))
def test_edges_in_any_order(edges):
    flat = np.zeros(200, bool)
    for edge in edges:
        flat[edge:] ^= True
    counts = rle.from_edges(np.array(edges, np.int64), 200)
    np.testing.assert_array_equal(counts, rle.encode(flat.reshape(1, 200)))


SUM = r"RLE sum .* != h\*w 12"
LISTS = {
    "short": ([3, 4], SUM),
    "long": ([3, 4, 6], SUM),
    "huge": ([3, 2**62, 2**62, 2**62, 2**62], SUM),
    "over int64": ([2**64], "whole numbers"),
    "negative": ([8, -4, 8], "RLE has a run of length -4"),
    "float": ([6.0, 6], "whole numbers"),
    "boolean": ([11, True], "whole numbers"),
    "text": (["12"], "whole numbers"),
    "nested": ([[12]], "whole numbers"),
    "none": ([], SUM),
}


@pytest.mark.parametrize(("values", "message"), LISTS.values(), ids=LISTS)
def test_lists_that_cannot_be_believed(values, message):
    with pytest.raises(FaultError, match=message) as error:
        rle.from_list(values, 3, 4)
    assert error.value.kind == "bad-rle"


STRINGS = {
    "empty": ("", SUM),
    "short": ("34", SUM),
    "negative": ("4K", "RLE has a run of length -5"),
    "cut": ("4P", "ends within a number"),
    "long number": ("P" * 8 + "4", "more than 7 characters"),
    "characters": ("4 4", "characters other than"),
    "not ascii": ("4é4", "characters other than"),
}


@pytest.mark.parametrize(("text", "message"), STRINGS.values(), ids=STRINGS)
def test_strings_that_cannot_be_believed(text, message):
    with pytest.raises(FaultError, match=message) as error:
        rle.from_string(text, 3, 4)
    assert error.value.kind == "bad-rle"


@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=60))
def test_any_string_is_a_mask_or_a_fault(text):
    with suppress(FaultError):
        counts = rle.from_string(text, 5, 7)
        np.testing.assert_array_equal(rle.encode(rle.decode(counts, 5, 7)), counts)
