"""The panoptic view of hand-made records."""

import numpy as np
import pytest

from pipelines.data import panoptic, rle
from pipelines.data.faults import FaultError
from pipelines.data.schema import IGNORE, Record, Segment

THINGS = (1,)


def record(semantic: list[list[int]], *masks: list[list[int]], crowds: tuple[bool, ...] = ()) -> Record:
    """Class 0 is stuff, class 1 a thing."""
    segments = []
    for i, rows in enumerate(masks):
        mask = np.array(rows, bool)
        iscrowd = bool(crowds) and crowds[i]
        segments.append(
            Segment(category=1, bbox=rle.bbox(mask), area=int(mask.sum()), iscrowd=iscrowd, counts=rle.encode(mask))
        )
    map_ = np.array(semantic, np.uint8)
    return Record(
        id="a", split="train", image=b"", format="png", height=map_.shape[0], width=map_.shape[1], semantic=map_,
        segments=tuple(segments),
    )  # fmt: skip


def test_stuff_from_the_map_things_from_the_segments_the_rest_void() -> None:
    found = panoptic.truth(record([[0, 0, 1, 1, IGNORE]], [[0, 0, 1, 0, 0]]), THINGS)
    assert found.ids.tolist() == [[1, 1, 2, 0, 0]]
    assert found.labels.tolist() == [0, 1]


def test_the_earlier_of_overlapping_segments_is_in_front() -> None:
    found = panoptic.truth(record([[1, 1, 1]], [[1, 1, 0]], [[0, 1, 1]]), THINGS)
    assert found.ids.tolist() == [[1, 1, 2]]


def test_what_nothing_is_left_of_is_no_segment() -> None:
    hidden, ignored = [[1, 0, 0]], [[0, 0, 1]]
    found = panoptic.truth(record([[1, 1, IGNORE]], [[1, 1, 0]], hidden, ignored, crowds=(True, False, False)), THINGS)
    assert found.ids.tolist() == [[1, 1, 0]]
    assert found.iscrowd.tolist() == [True]


def test_a_record_of_nothing_known_has_no_segment() -> None:
    found = panoptic.truth(record([[IGNORE, IGNORE]]), THINGS)
    assert not found.ids.any()
    assert found.labels.shape == (0,)


def test_a_picture_is_read_by_its_colours() -> None:
    red, all_three = [1, 0, 0], [3, 2, 1]  # 1 and 3 + 2 x 256 + 1 x 65536
    pixels = np.array([[red, red, [0, 0, 0], all_three]], np.uint8)
    found = panoptic.painted(pixels, [(66051, 4, True), (1, 2, False)])
    assert found.start.tolist() == [0, 2, 3]
    assert found.ids.tolist() == [2, 0, 1]
    assert found.labels.tolist() == [4, 2]
    assert found.iscrowd.tolist() == [True, False]


def test_a_colour_that_stands_for_nothing_is_refused() -> None:
    with pytest.raises(FaultError, match=r"ids \[256\] are painted, and not in segments_info"):
        panoptic.painted(np.array([[[0, 1, 0]]], np.uint8), [(1, 0, False)])
