"""Masks over their image."""

import numpy as np

from pipelines.reporting.overlay import overlay
from pipelines.reporting.pictures import PAPER

COLORS = [(200, 0, 0), (0, 100, 0)]


def mask(top: int, left: int, bottom: int, right: int) -> np.ndarray:
    found = np.zeros((20, 30), bool)
    found[top:bottom, left:right] = True
    return found


def test_colours_cover_as_much_as_they_may_and_the_smaller_is_in_front() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    large, small = mask(0, 0, 20, 16), mask(5, 4, 12, 10)
    for order in ([0, 1], [1, 0]):
        masks = [[large, small][i] for i in order]
        picture = overlay(image, masks, order, COLORS, alpha=0.25)
        assert picture[2, 2].tolist() == [125, 75, 75]
        assert picture[8, 7].tolist() == [75, 100, 75]
        assert picture[8, 25].tolist() == [100, 100, 100], "where nothing is, the image is as it was"
        assert picture[8, 15].tolist() == list(PAPER), "an outline"
    assert (image == 100).all()


def test_things_of_one_class_are_told_apart() -> None:
    image = np.zeros((20, 30, 3), np.uint8)
    picture = overlay(image, [mask(0, 0, 20, 10), mask(0, 15, 20, 25)], [0, 0], COLORS, alpha=1.0)
    assert picture[5, 5].tolist() == [200, 0, 0]
    assert picture[5, 20].tolist() not in ([200, 0, 0], [0, 0, 0])


def test_nothing_found_is_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert np.array_equal(overlay(image, [], [], COLORS, alpha=0.5), image)
