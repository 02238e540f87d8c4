"""One resampling of the crop against the four passes that it stands for: the same pixels at equal draws, and the same
draws."""

from fractions import Fraction
from itertools import pairwise
from random import Random

import albumentations as A
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from pipelines.data.schema import IGNORE
from pipelines.loading.geometry import Axis, ScaleCrop, Window, draw

SIZE, CROP, SCALE = (91, 121), (80, 80), (0.5, 2.0)
SIDES = st.integers(1, 70)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Smooth, as photographs are: noise would measure the phase of the sampling alone."""
    noise = np.random.default_rng(seed).integers(0, 256, (-(-size[0] // 8) + 1, -(-size[1] // 8) + 1, 3), np.uint8)
    return cv2.resize(noise, size[::-1], interpolation=cv2.INTER_CUBIC)


def passes(window: Window, array: np.ndarray, interpolation: int, fill: int) -> np.ndarray:
    """Scale, pad, crop and flip, one after the other."""
    y, x = window.y, window.x
    scaled = cv2.resize(array, (x.scaled, y.scaled), interpolation=interpolation)
    before = [max(-axis.start, 0) for axis in (y, x)]
    pads = [(b, max(axis.crop - axis.scaled - b, 0)) for b, axis in zip(before, (y, x), strict=True)]
    padded = np.pad(scaled, pads + [(0, 0)] * (array.ndim - 2), constant_values=fill)
    top, left = max(y.start, 0), max(x.start, 0)
    crop = padded[top : top + y.crop, left : left + x.crop]
    return crop[:, ::-1] if window.flip else crop


def windows(count: int, size: tuple[int, int] = SIZE) -> list[Window]:
    random = Random(0)
    return [draw(random, size, crop=CROP, scale=SCALE, flip=0.5) for _ in range(count)]


def test_the_image_is_that_of_the_four_passes():
    image = picture(SIZE)
    off = [np.abs(w.image(image).astype(int) - passes(w, image, cv2.INTER_LINEAR, 0)) for w in windows(200)]
    assert max(d.max() for d in off) <= 6  # a 32nd of the steepest step between two pixels
    assert np.mean([d.mean() for d in off]) < 0.3


def test_the_mask_is_that_of_the_four_passes():
    """Of odd sizes, where no two pixels are ever equally near: of those OpenCV takes the other one."""
    labels = np.random.default_rng(0).integers(0, 9, SIZE, np.uint8)
    differ = [(w.mask(labels) != passes(w, labels, cv2.INTER_NEAREST_EXACT, IGNORE)).mean() for w in windows(200)]
    assert max(differ) == 0


def nearest(axis: Axis, u: int) -> int:
    """The source pixel in which the middle of a scaled pixel lies."""
    return int(Fraction(2 * u + 1, 2) * axis.source / axis.scaled)


@given(SIDES, SIDES, SIDES, st.data())
def test_any_window_is_as_the_four_passes_make_it(source, scaled, crop, data):
    room = scaled - crop
    start = data.draw(st.integers(min(room, 0), max(room, 0)))
    axis = Axis(source=source, scaled=scaled, start=start, crop=crop)
    window = Window(y=axis, x=Axis(source=33, scaled=44, start=2, crop=32), flip=data.draw(st.booleans()))
    image = picture((source, 33), seed=source)
    wanted = passes(window, image, cv2.INTER_LINEAR, 0).astype(int)
    steep = max(np.abs(np.diff(image.astype(int), axis=0)).max(initial=0), 32)
    assert np.abs(window.image(image) - wanted).max() <= steep / 32 + 2
    labels = image[..., 0]
    exact = labels[np.ix_(*([nearest(a, u) for u in range(a.first, a.last)] for a in (window.y, window.x)))]
    shown = window.mask(labels)[:, ::-1] if window.flip else window.mask(labels)
    np.testing.assert_array_equal(shown[window.y.shown, window.x.shown], exact)


def test_only_the_rows_that_the_crop_needs_are_read():
    """The rest of a mapped file is not even touched: here it would change the result."""
    image = picture((400, 400))
    for window in windows(50, (400, 400)):
        low, high, _ = window.y.window()
        other = image.copy()
        other[:low], other[high:] = 0, 0
        np.testing.assert_array_equal(window.image(other), window.image(image))
    spare = [w.y.window()[1] - w.y.window()[0] - (w.y.last - w.y.first) * w.y.ratio for w in windows(300, (400, 400))]
    assert np.mean(spare) < 20


def albumentations(crop: tuple[int, int]) -> A.Compose:
    compose = A.Compose(
        [
            A.RandomScale((SCALE[0] - 1, SCALE[1] - 1), mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1),
            A.PadIfNeeded(*crop, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=IGNORE, position="random"),
            A.RandomCrop(*crop),
            A.HorizontalFlip(p=0.3),
        ]
    )
    for seed, transform in enumerate(compose.transforms):  # a seed of the whole gives all of them the same numbers
        transform.set_random_seed(seed)
    return compose


def corners(compose: A.Compose, size: tuple[int, int], count: int) -> np.ndarray:
    """float[count, 4]: the source position of two pixels of the crop, found from an image of coordinates; 255 where
    they are padding."""
    place = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), axis=-1).astype(np.uint8) + 1
    black, places = np.zeros((*size, 3), np.uint8), [place[..., 0], place[..., 1]]
    masks = [compose(image=black, masks=places)["masks"] for _ in range(count)]
    return np.array([[m[20, 20] for m in pair] + [m[45, 40] for m in pair] for pair in masks], float)


@pytest.mark.parametrize("size", [(60, 100), (48, 48)])
def test_scale_place_and_flip_have_the_distribution_of_the_four_passes(size):
    crop = (64, 56)
    ours = corners(A.Compose([ScaleCrop(crop=crop, scale=SCALE, flip=0.3)], seed=1), size, 1500)
    theirs = corners(albumentations(crop), size, 1500)
    for a, b in zip(ours.T, theirs.T, strict=True):
        assert stats.ks_2samp(a, b).pvalue > 1e-3
    for side in (0, 1):  # the way from one pixel to the other: flip and scale
        assert stats.ks_2samp(ours[:, side + 2] - ours[:, side], theirs[:, side + 2] - theirs[:, side]).pvalue > 1e-3


def test_the_draws_are_uniform():
    random, scaled, starts, flips = Random(3), [], [], 0
    for _ in range(4000):
        window = draw(random, (200, 40), crop=(64, 64), scale=(0.5, 1.5), flip=0.25)
        scaled.append(window.y.scaled / 200)
        starts.append((window.y.start + random.random()) / (window.y.scaled - 64 + 1))
        flips += window.flip
        assert window.x.first == max(window.x.start, 0)
        assert -(64 - window.x.scaled) <= window.x.start <= 0 or window.x.scaled >= 64
    assert stats.kstest(scaled, "uniform", (0.5, 1.0)).pvalue > 1e-3
    assert stats.kstest(starts, "uniform").pvalue > 1e-3
    assert stats.binomtest(flips, 4000, 0.25).pvalue > 1e-3


def test_it_is_a_transform_like_others():
    """In any A.Compose, with several masks, and other transforms after it."""
    image, labels = picture(SIZE), np.ones(SIZE, np.uint8)
    compose = A.Compose([ScaleCrop(crop=CROP, scale=SCALE, flip=0.5), A.ToGray(p=1)], seed=0)
    out = compose(image=image, mask=labels, masks=[labels, labels])
    assert out["image"].shape == (*CROP, 3)
    for a, b in pairwise([out["mask"], *out["masks"]]):
        np.testing.assert_array_equal(a, b)


def test_shrinking_to_less_than_a_pixel_leaves_one():
    window = draw(Random(0), (1, 3), crop=(4, 4), scale=(0.1, 0.1), flip=0)
    assert window.image(np.full((1, 3, 3), 9, np.uint8)).sum() == 27
