"""Polygons: pixel for pixel as COCO's own tools fill them."""

import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from pipelines.data import polygons, rle
from pipelines.data.faults import FaultError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools's


def reference(points: np.ndarray, height: int, width: int) -> np.ndarray:
    (found,) = coco.frPyObjects([points.ravel().tolist()], height, width)
    return coco.decode(found).astype(bool)


def filled(points: np.ndarray, height: int, width: int) -> np.ndarray:
    return rle.decode(polygons.counts(points, height, width), height, width)


def outlines(coordinates: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    return st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=12).map(lambda p: np.array(p, float))


ANY = st.floats(-30, 60, allow_nan=False)
CENTS = st.integers(-3000, 6000).map(lambda v: v / 100)
FIFTHS = st.integers(-50, 250).map(lambda v: v / 10)  # on the fine grid, and halfway between its points
WHOLE = st.integers(-5, 30)
SIZE = st.integers(1, 33)


@settings(max_examples=400, deadline=None)
@given(st.one_of(outlines(ANY), outlines(CENTS), outlines(FIFTHS), outlines(WHOLE)), SIZE, SIZE)
@example(np.array([[3.0, 3.0]] * 3), 8, 8)  # a point
@example(np.array([[1.0, 1], [9, 9], [5, 5]]), 12, 12)  # a line
@example(np.array([[0.0, 0], [8, 0], [8, 8], [0, 8]]), 8, 8)  # the image
@example(np.array([[0.0, 0], [9, 9], [9, 0], [0, 9]]), 9, 9)  # crosses itself
@example(np.array([[2.4, -20], [2.6, 40], [2.5, 40]]), 9, 9)  # a splinter, steep and clipped
def test_polygons_are_those_of_coco(points, height, width):
    np.testing.assert_array_equal(filled(points, height, width), reference(points, height, width))


@pytest.mark.parametrize("seed", range(25))
def test_large_polygons_that_cross_themselves(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(50, 700, 2)
    reach = rng.choice([0.2, 1.0, 3.0, 30.0])
    points = (rng.random((rng.integers(3, 200), 2)) - 0.5) * reach * 700 + 350
    points = np.round(points, int(rng.integers(0, 4)))
    np.testing.assert_array_equal(filled(points, height, width), reference(points, height, width))


@pytest.mark.parametrize("seed", range(10))
def test_thin_and_tiny_polygons(seed):
    rng = np.random.default_rng(seed)
    for _ in range(100):
        points = rng.random((4, 2)) * rng.choice([0.3, 1.5, 4.0], 2) + rng.integers(0, 20, 2)
        np.testing.assert_array_equal(filled(points, 24, 24), reference(points, 24, 24))


def test_several_parts_are_one_object():
    square = [1, 1, 4, 1, 4, 4, 1, 4]
    shifted = [3, 3, 6, 3, 6, 6, 3, 6]
    found = polygons.fill([square, shifted], 8, 8)
    expected = coco.decode(coco.merge(coco.frPyObjects([square, shifted], 8, 8))).astype(bool)
    np.testing.assert_array_equal(rle.decode(found.counts, 8, 8), expected)
    assert expected.sum() == 9 + 9 - 1
    assert found.changes == ()


CHANGES = {
    "within": ([[0, 0, 8, 0, 8, 6, 0, 6]], 48, []),
    "a hair outside": ([[-0.4, 0, 8.4, 0, 8.4, 6.4, -0.4, 6.4]], 48, []),
    "half outside": ([[4, 0, 12, 0, 12, 6, 4, 6]], 24, ["clipped"]),
    "one part outside": ([[0, 0, 2, 0, 2, 2, 0, 2], [20, 20, 30, 20, 30, 30]], 4, ["clipped"]),
    "one part without area": ([[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 4, 4]], 4, ["degenerate-part"]),
    "a line on the border": ([[0, 1, 0, 3, 0, 2]], 0, []),
    "nothing": ([[1, 1, 1, 1, 1, 1]], 0, []),
    "points": ([[[0, 0], [2, 0], [2, 2], [0, 2]]], 4, []),
}


@pytest.mark.parametrize(("parts", "area", "kinds"), CHANGES.values(), ids=CHANGES)
def test_what_is_changed_is_said(parts, area, kinds):
    found = polygons.fill(parts, 6, 8)
    assert rle.area(found.counts) == area
    assert [kind for kind, _ in found.changes] == kinds


REFUSED = {
    "outside": ([[20, 20, 30, 20, 30, 30]], "outside-image", "wholly outside the image of 8x6"),
    "two points": ([[1, 1, 4, 4]], "bad-polygon", "a polygon of 2 points, expected 3 or more"),
    "none": ([[]], "bad-polygon", "a polygon of 0 points"),
    "odd": ([[1, 1, 4, 4, 5, 5, 6]], "bad-polygon", "an x and a y for each"),
    "nan": ([[1, 1, 4, float("nan"), 5, 5]], "bad-polygon", "not finite"),
    "infinity": ([[1, 1, 4, float("inf"), 5, 5]], "bad-polygon", "not finite"),
    "far": ([[1, 1, 1e9, 4, 5, 5]], "bad-polygon", "coordinate 1000000000, over limit"),
    "over int64": ([[1, 1, 10**30, 4, 5, 5]], "bad-polygon", "list of numbers"),
    "text": ([["1", 1, 4, 4, 5, 5]], "bad-polygon", "list of numbers"),
    "object": ([{"counts": 1}], "bad-polygon", "list of numbers"),
    "number": ([7], "bad-polygon", "list of numbers"),
    "booleans": ([[True] * 6], "bad-polygon", "list of numbers"),
    "ragged": ([[[1, 2], [3]]], "bad-polygon", "list of numbers"),
    "triples": ([[[1, 2, 3]] * 3], "bad-polygon", "list of numbers"),
    "zigzag": ([[0, 0, 8, 1] * 800_000], "bad-polygon", "crosses 12800000 columns, over limit"),
}


@pytest.mark.parametrize(("parts", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_polygons_that_cannot_be_believed(parts, kind, message):
    with pytest.raises(FaultError, match=message) as error:
        polygons.fill(parts, 6, 8)
    assert error.value.kind == kind


def test_what_lies_outside_costs_nothing():
    far = polygons.MAX_COORDINATE
    points = np.array([[-far, -far], [far, -far], [far, far], [-far, far]] * 200, float)
    points[1::2, 1] += np.arange(400)
    start = time.perf_counter()
    assert rle.area(polygons.counts(points, 100, 100)) >= 0
    assert time.perf_counter() - start < 1
