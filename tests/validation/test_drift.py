from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from pipelines.validation import drift


def test_total_variation():
    assert drift.total_variation(np.array([1, 1]), np.array([30, 10])) == 0.25
    assert drift.total_variation(np.array([3, 1]), np.array([300, 100])) == 0
    assert drift.total_variation(np.array([1, 0]), np.array([0, 1])) == 1
    assert drift.total_variation(np.array([1, 0]), np.array([0, 0])) == 1
    assert drift.total_variation(np.array([0, 0]), np.array([0, 0])) == 0


def one_hot(bins: list[int]) -> np.ndarray:
    return np.eye(3, dtype=np.int32)[bins]


def test_chance_is_the_99th_percentile_of_all_splits_of_that_size():
    """Against every one of the 715 ways to draw 4 images of 13."""
    both = one_hot([0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 0])
    every = []
    for drawn in combinations(range(13), 4):
        mine = np.isin(np.arange(13), drawn)
        every.append(drift.total_variation(both[~mine].sum(axis=0), both[mine].sum(axis=0)))
    found = drift.measure(both[:9], both[9:])
    assert np.quantile(every, 0.97) <= found.chance <= max(every)
    assert found.distance == drift.total_variation(both[:9].sum(axis=0), both[9:].sum(axis=0))
    assert found == drift.measure(both[:9], both[9:])


def objects(images: int, rng: np.random.Generator) -> np.ndarray:
    """Up to twenty objects per image, all those of one image in one or two bins: 4 images say little of the next 4."""
    counts = np.zeros((images, 8), np.int32)
    for row in counts:
        row[rng.integers(0, 8, 2)] = rng.integers(0, 10, 2)
    return counts


@pytest.mark.parametrize("size", [3, 12, 40])
def test_splits_of_the_same_images_seldom_drift(size):
    """A limit of 0.25 alone would stop most of the small splits; of 200 draws 2 are expected to pass for drift."""
    rng = np.random.default_rng(7)
    found = [drift.measure(objects(60, rng), objects(size, rng)) for _ in range(200)]
    assert sum(f.proven > 0 for f in found) <= 8
    if size < 20:
        assert sum(f.distance > 0.25 for f in found) > 50


@pytest.mark.parametrize("size", [3, 12, 40])
def test_other_sizes_drift_however_small_the_split(size):
    found = drift.measure(one_hot([0] * 50 + [1] * 10), one_hot([2] * size))
    assert found.distance == found.proven == 1


def test_which_part_is_the_reference_makes_no_difference():
    rng = np.random.default_rng(1)
    a, b = objects(30, rng), objects(9, rng)
    assert drift.measure(a, b).distance == drift.measure(b, a).distance


def test_an_empty_split_does_not_drift():
    nothing = drift.Drift(distance=0.0, chance=0.0)
    assert drift.measure(one_hot([0, 1]), one_hot([])) == drift.measure(one_hot([]), one_hot([0])) == nothing


def frame(**columns) -> pd.DataFrame:
    return pd.DataFrame(columns)


def test_images_of_about_the_same_sides_share_a_bin():
    images = frame(height=[480, 512, 427, 100, 640], width=[640, 512, 640, 640, 480])
    assert drift.image_bins(images).T.tolist() == [[0, 0, 0, 1, 0], [1, 1, 1, 0, 1]]


def test_objects_are_counted_in_their_images_by_areas_that_double():
    images = frame(instances=[2, 0, 3])
    segments = frame(iscrowd=[False, True, False, False, False, False], measured_area=[36, 999, 63, 64, 40, 0])
    assert drift.object_bins(images, segments).tolist() == [[0, 2, 0], [0, 0, 0], [1, 1, 1]]
