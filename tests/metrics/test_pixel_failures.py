"""Wrong pixels and regions, against counting them one by one."""

from collections import Counter

import numpy as np
import pytest

from pipelines.data.schema import IGNORE
from pipelines.metrics import sizes
from pipelines.metrics.pixel_failures import PixelFailures

NAMES = ("sky", "road", "tree")


def flood(truth: np.ndarray) -> list[list[tuple[int, int]]]:
    """Regions by walking from neighbour to neighbour."""
    todo, regions = {tuple(p) for p in np.argwhere(truth != IGNORE).tolist()}, []
    while todo:
        edge = [todo.pop()]
        region = []
        while edge:
            y, x = edge.pop()
            region.append((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in todo and truth[near] == truth[y, x]:
                    todo.remove(near)
                    edge.append(near)
        regions.append(region)
    return regions


def test_regions_and_pairs_are_counted_one_by_one():
    rng = np.random.default_rng(0)
    metrics, pairs, by_size = PixelFailures(NAMES), [], np.zeros((3, len(sizes.NAMES), 4), np.int64)
    for _ in range(4):
        truth = np.kron(rng.choice([0, 1, 2, IGNORE], (6, 6)), np.ones((9, 9))).astype(np.uint8)
        predicted = np.where(rng.random(truth.shape) < 0.3, rng.choice([0, 1, 2, IGNORE], truth.shape), truth)
        predicted = np.where(predicted == IGNORE, 0, predicted).astype(np.uint8)
        metrics.update(truth, predicted)
        pixels = zip(truth.ravel().tolist(), predicted.ravel().tolist(), strict=True)
        pairs.append(Counter((t, p) for t, p in pixels if t not in (p, IGNORE)))
        for region in flood(truth):
            right = sum(truth[at] == predicted[at] for at in region)
            row = by_size[truth[region[0]], sizes.of(np.array([len(region)]))[0]]
            row += [1, right / len(region) >= 0.5, len(region), right]
    rows, images = metrics.rows()
    for image, expected in enumerate(pairs):
        mine = rows[images == image]
        assert {(r["truth_label"], r["label"]): r["pixels"] for r in mine} == expected
    assert np.array_equal(metrics.by_size, by_size)


def test_shares_make_up_the_whole():
    rng = np.random.default_rng(1)
    whole, first, second = (PixelFailures(NAMES) for _ in range(3))
    for part in (first, first, second):
        truth, predicted = rng.integers(0, 3, (2, 8, 8), dtype=np.uint8)
        whole.update(truth, predicted)
        part.update(truth, predicted)
    first.merge(second)
    assert np.array_equal(first.by_size, whole.by_size)
    for mine, theirs in zip(first.rows(), whole.rows(), strict=True):
        assert np.array_equal(mine, theirs)
    with pytest.raises(ValueError, match="cannot merge failures of"):
        first.merge(PixelFailures(("sky",)))


def test_an_image_of_which_nothing_is_known():
    metrics = PixelFailures(NAMES)
    metrics.update(np.full((4, 4), IGNORE, np.uint8), np.zeros((4, 4), np.uint8))
    assert not metrics.by_size.any()
    assert not len(metrics.rows()[0])
