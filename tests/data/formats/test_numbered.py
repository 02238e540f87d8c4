"""Instance maps whose values are a label and a number, held against one comparison per value."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from pipelines.data import rle
from pipelines.data.classes import published
from pipelines.data.faults import FaultError
from pipelines.data.formats import cityscapes, kitti, mapillary_vistas, numbered
from pipelines.data.schema import IGNORE

TABLE = published("cityscapes")
# Values of each sort of map -> label, and whether that value is a group; from the definitions, one by one.
VALUES = {
    cityscapes.meaning: {
        0: (0, 0),
        7: (7, 0),
        1000: (1, 0),
        24: (24, 1),
        26: (26, 1),
        26000: (26, 0),
        26999: (26, 0),
        30001: (30, 0),
    },
    kitti.meaning: {0: (0, 0), 7 * 256: (7, 0), 7 * 256 + 3: (7, 0), 6656: (26, 1), 6657: (26, 0), 6911: (26, 0)},
    mapillary_vistas.meaning: {0: (0, 0), 1792: (7, 0), 6656: (26, 0), 6657: (26, 0), 7680: (30, 0)},
}


@pytest.mark.parametrize("meaning", VALUES, ids=lambda f: f.__module__.rpartition(".")[2])
@given(data=st.data())
def test_segments_are_those_of_one_comparison_per_value(meaning, data):
    known = VALUES[meaning]
    shape = data.draw(array_shapes(min_dims=2, max_dims=2, max_side=6))
    values = data.draw(arrays(np.uint16, shape, elements=st.sampled_from(sorted(known))))
    mask = np.vectorize(lambda v: known[v][0])(values).astype(np.uint8)
    found = numbered.segments(values, TABLE.semantic(mask), table=TABLE, meaning=meaning)
    expected = []
    for value, (label, group) in known.items():
        entry = next(e for e in TABLE.entries if e.id == label)
        if entry.isthing and not entry.ignore and (values == value).any():
            category = [c.name for c in TABLE.classes].index(entry.name)
            expected.append((category, bool(group), rle.bbox(values == value), rle.encode(values == value).tolist()))
    assert [(s.category, s.iscrowd, s.bbox, s.counts.tolist()) for s in found] == expected


@given(arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 3, 7, 8, 17, 18, 21, 26, 33])))
def test_published_labels_are_never_taken_for_train_ids(mask):
    np.testing.assert_array_equal(numbered._semantic(mask, TABLE), TABLE.semantic(mask))


@given(arrays(np.uint8, (3, 5), elements=st.sampled_from([0, 1, 2, 11, 18])))
def test_train_ids_around_ignored_pixels_are_never_taken_for_labels(mask):
    mask[0, 0] = IGNORE
    with pytest.raises(FaultError, match="looks like trainIds"):
        numbered._semantic(mask, TABLE)


def test_an_ignored_image_is_no_sign_of_train_ids():
    assert (numbered._semantic(np.full((2, 2), IGNORE, np.uint8), TABLE) == IGNORE).all()
