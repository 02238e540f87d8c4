"""U-Net's border weights against the formula in float64, distance by distance."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data import rle
from pipelines.data.schema import Segment
from pipelines.loading.border import Border
from pipelines.loading.geometry import Axis, Window
from pipelines.loading.instances import Instances, cut


def instances(masks: Sequence[np.ndarray], crowds: Sequence[int] = ()) -> Instances:
    """Of a crop that shows the whole image."""
    segments = [
        Segment(category=0, bbox=rle.bbox(m), area=int(m.sum()), iscrowd=k in crowds, counts=rle.encode(m))
        for k, m in enumerate(masks)
    ]
    height, width = masks[0].shape if len(masks) else (1, 1)
    y, x = (Axis(source=side, scaled=side, start=0, crop=side) for side in (height, width))
    return cut(segments, Window(y=y, x=x, flip=False))


def formula(masks: np.ndarray, crowds: Sequence[int], weight: float, sigma: float) -> np.ndarray:
    """Every pixel's distance to every pixel of every thing."""
    height, width = masks.shape[1:]
    grid = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 1, 2).astype(np.float64)
    distances = [
        np.linalg.norm(grid - np.argwhere(m), axis=2).min(axis=1) for k, m in enumerate(masks) if k not in crowds
    ]
    far = [np.full(height * width, np.inf)] * 2
    first, second = np.sort([*distances, *far], axis=0)[:2]
    map_ = (1 + weight * np.exp(-((first + second) ** 2) / (2 * sigma**2))).reshape(height, width)
    map_[masks.any(axis=0)] = 1
    return map_


def discs(random: np.random.Generator, count: int, height: int, width: int, radius: float) -> np.ndarray:
    """That may overlap, and lie across the crop's edge; of four pixels at least, since less is no instance."""
    y, x = np.mgrid[:height, :width]
    centers = random.uniform(0, [height, width], (count, 2))
    radii = random.uniform(1.5, radius, count)
    found = np.array([np.hypot(y - c[0], x - c[1]) < r for c, r in zip(centers, radii, strict=True)])
    return found.reshape(-1, height, width)[[m.sum() >= 4 for m in found]]


@given(
    st.integers(0, 9), st.integers(8, 30), st.integers(8, 30),
    st.sampled_from([0.0, 0.5, 10.0]), st.sampled_from([0.7, 2.0, 5.0, 40.0]), st.integers(0, 10**6),
)  # fmt: skip
def test_it_is_the_formula(count, height, width, weight, sigma, seed):
    random = np.random.default_rng(seed)
    masks = discs(random, count, height, width, 6)
    crowds = [k for k in range(len(masks)) if random.random() < 0.2]
    found = Border(weight=weight, sigma=sigma)(instances(masks, crowds), height, width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, formula(masks, crowds, weight, sigma), rtol=1e-5)


def test_many_things_of_which_each_reaches_only_some():
    """Larger than what any one of them reaches: the crop's parts are put together from pieces."""
    masks = discs(np.random.default_rng(1), 40, 90, 110, 7)
    found = Border(weight=10.0, sigma=2.0)(instances(masks), 90, 110)
    assert Border(weight=10.0, sigma=2.0).reach < 20
    np.testing.assert_allclose(found, formula(masks, [], 10.0, 2.0), rtol=1e-5)
    assert found.max() > 5
    assert (found == 1).mean() > 0.2


def test_the_ground_between_two_things_by_hand():
    masks = np.zeros((2, 9, 12), bool)
    masks[0, 2:7, 1:4] = masks[1, 2:7, 8:11] = True  # columns 4..7 lie between them
    found = Border(weight=10.0, sigma=5.0)(instances(masks), 9, 12)
    between = 1 + 10 * math.exp(-((1 + 4) ** 2) / 50)  # and 2 + 3, 3 + 2, 4 + 1
    assert found[4, 4:8].tolist() == pytest.approx([between] * 4, rel=1e-6)
    assert (found[2:7, 1:4] == 1).all()
    assert found[4, 0] == pytest.approx(1 + 10 * math.exp(-((1 + 8) ** 2) / 50), rel=1e-6)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_and_one_thing_have_no_border(count):
    masks = discs(np.random.default_rng(0), 9, 20, 20, 6)[:count]
    assert (Border(weight=10.0, sigma=5.0)(instances(masks), 20, 20) == 1).all()
