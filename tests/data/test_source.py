"""What the formats share."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipelines.data import rle
from pipelines.data.formats.source import IGNORE, check_count, color, duplicates, labelled, segment
from pipelines.errors import DataError


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 4)))
def test_segments_are_those_of_the_whole_map(labels):
    found = {label: segment(labels, label, box, category=7) for label, box in labelled(labels)}
    assert set(found) == set(np.unique(labels).tolist()) - {0}
    for label, got in found.items():
        mask = labels == label
        np.testing.assert_array_equal(got.counts, rle.encode(mask))
        assert (got.area, got.bbox, got.category) == (mask.sum(), rle.bbox(mask), 7)


def test_colours_are_pascal_voc_s():
    assert [color(i) for i in range(4)] == [(128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    assert len({color(i) for i in range(255)}) == 255


def test_duplicates_are_named_once():
    assert duplicates(["b", "a", "b", "c", "b", "c"]) == ["b", "c"]


@pytest.mark.parametrize("classes", [0, IGNORE + 1])
def test_class_ids_fit_beside_the_ignore_value(classes):
    with pytest.raises(DataError, match=f"x: {classes} classes, allowed are 1 to 255"):
        check_count("x", classes)
