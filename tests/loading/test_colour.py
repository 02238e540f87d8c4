"""One matrix against Albumentations' four steps, at the same draws."""

import albumentations as A
import numpy as np
import pytest

from pipelines.loading.colour import ColorMatrix

OFF = {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": (0, 0)}


def soft(seed: int = 0) -> np.ndarray:
    """Values from 64 to 191: no step of a moderate jitter is clipped."""
    return np.random.default_rng(seed).integers(64, 192, (40, 50, 3), np.uint8)


def both(image: np.ndarray, count: int = 40, **jitter: tuple[float, float]) -> list[tuple[np.ndarray, np.ndarray]]:
    theirs, ours = (A.Compose([kind(**{**OFF, **jitter}, p=1)]) for kind in (A.ColorJitter, ColorMatrix))
    pairs = []
    for seed in range(count):
        theirs.set_random_seed(seed)
        ours.set_random_seed(seed)
        pairs.append((theirs(image=image)["image"].astype(int), ours(image=image)["image"].astype(int)))
    return pairs


@pytest.mark.parametrize(
    ("jitter", "most"),
    [
        ({"brightness": (0.7, 1.3)}, 1),  # each of their steps rounds
        ({"contrast": (0.7, 1.3)}, 1),
        ({"saturation": (0.5, 1.5)}, 2),
        ({"brightness": (0.8, 1.2), "contrast": (0.8, 1.2), "saturation": (0.5, 1.5)}, 4),
    ],
)
def test_brightness_contrast_and_saturation_are_theirs(jitter, most):
    pairs = both(soft(), **jitter)
    assert max(np.abs(a - b).max() for a, b in pairs) <= most
    assert len({a.tobytes() for a, _ in pairs}) > len(pairs) / 2


def test_hue_turns_the_same_way_and_keeps_the_luma():
    image = soft()
    grey = np.array([0.299, 0.587, 0.114])
    for theirs, ours in both(image, hue=(-0.1, 0.1)):
        a, b = theirs - image.astype(int), ours - image.astype(int)
        if np.abs(a).mean() > 8:
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.6
        inside = ((ours > 0) & (ours < 255)).all(axis=-1)
        assert np.abs((ours - image) @ grey)[inside].max() <= 1


def test_a_whole_turn_of_hue_and_no_jitter_change_nothing():
    for jitter in ({}, {"hue": (0.5, 0.5)}):
        for _, ours in both(soft(), count=2, **jitter):
            again = both(ours.astype(np.uint8), count=1, **jitter)[0][1]
            inside = ((ours > 0) & (ours < 255)).all(axis=-1)
            assert np.abs(again - soft())[inside].max() <= 2


def test_what_leaves_the_range_is_clipped():
    _, ours = both(np.full((4, 4, 3), 200, np.uint8), count=1, brightness=(1.9, 1.9))[0]
    assert (ours == 255).all()
