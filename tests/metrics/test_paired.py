"""The paired bootstrap against metrics of the drawn images themselves, and against what chance alone would promote."""

import numpy as np
import pytest
from scipy import stats

from pipelines.metrics import bootstrap, paired, semantic


def sums(right: np.ndarray, pixels: int) -> np.ndarray:
    """[images] right pixels of one class -> [images, 1, 3], whose accuracy is their mean."""
    return np.stack([right, np.full_like(right, pixels), np.full_like(right, pixels)], axis=-1)[:, None]


def accuracies(images: np.ndarray, seed: int, resamples: int = 400) -> np.ndarray:
    return bootstrap.replicates(images, semantic.scores, resamples=resamples, seed=seed)["pixel_accuracy"]


def test_the_interval_is_that_of_the_images_drawn() -> None:
    """Of a mean the difference of two is the mean of differences: drawn here one by one, with the documented draws."""
    rng = np.random.default_rng(0)
    old, new = rng.integers(0, 100, 25), rng.integers(10, 110, 25)
    found = paired.difference(accuracies(sums(old, 128), 3), accuracies(sums(new, 128), 3), images=25, level=0.9)
    drawn = np.random.default_rng(3).integers(25, size=(400, 25))
    means = ((new - old) / 128)[drawn].mean(axis=1)
    out = (1 - paired.expanded(0.9, 25)) / 2
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [out, 1 - out]), abs=1e-12)
    assert found.resamples == 400


@pytest.mark.parametrize("images", [5, 25])
def test_the_interval_of_a_mean_is_student_s(images: int) -> None:
    """As wide on average over samples; the resamples' own spread and lopsidedness remain."""
    ratios = []
    for trial in range(40):
        values = np.rint(np.random.default_rng(trial).normal(500, 100, images)).astype(int)
        none = np.zeros(images, int)
        found = paired.difference(
            *(accuracies(sums(v, 1024), trial, 2000) for v in (none, values)), images=images, level=0.9
        )
        low, high = stats.t.interval(0.9, images - 1, values.mean() / 1024, stats.sem(values / 1024))
        ratios.append((found.high - found.low) / (high - low))
    assert np.mean(ratios) == pytest.approx(1, abs=0.08)


def test_p_is_that_of_a_t_test_where_both_hold() -> None:
    """200 images whose differences are normal: the two tests ask the same, and answer alike on average."""
    theirs, ours = [], []
    for trial in range(25):
        rng = np.random.default_rng(trial)
        old = rng.integers(200, 800, 200)
        new = old + np.rint(rng.normal(6, 50, 200)).astype(int)
        theirs.append(stats.ttest_rel(new, old).pvalue)
        seeded = (accuracies(sums(values, 1024), trial, 600) for values in (old, new))
        ours.append(paired.difference(*seeded, images=200, level=0.95).p)
    assert np.mean(np.abs(np.subtract(ours, theirs))) < 0.02


@pytest.mark.parametrize("images", [8, 30, 100])
def test_equal_models_are_seldom_told_apart(images: int) -> None:
    """What two-sided 5 % promotes by luck is 2.5 %."""
    promoted, trials = 0, 600
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        share = rng.beta(8, 2, images)  # an image is easy or hard for both
        old, new = (accuracies(sums(rng.binomial(200, share), 200), trial, 200) for _ in range(2))
        found = paired.difference(old, new, images=images, level=0.95)
        promoted += found.p <= 0.05 and found.low > 0
    assert promoted / trials <= 0.04


def test_a_real_gain_is_found() -> None:
    rng = np.random.default_rng(1)
    old = rng.integers(200, 800, 60)
    new = old + rng.integers(-5, 25, 60)
    found = paired.difference(*(accuracies(sums(v, 1024), 0) for v in (old, new)), images=60, level=0.95)
    assert 0 < found.low < (new - old).mean() / 1024 < found.high
    assert found.p < 0.01


def test_the_same_scores_are_no_difference() -> None:
    same = accuracies(sums(np.arange(30), 64), 0)
    assert paired.difference(same, same, images=30, level=0.95) == paired.Paired(low=0, high=0, p=1, resamples=400)


@pytest.mark.parametrize(("images", "enough"), [(2, False), (3, False), (4, False), (8, True)])
def test_a_few_images_cannot_tell(images: int, enough: bool) -> None:
    """Though all of them are better, and by much."""
    old = np.full(images, 10)
    found = paired.difference(*(accuracies(sums(v, 64), 0) for v in (old, old + 20)), images=images, level=0.95)
    assert found.low > 0
    assert (found.p <= 0.05) is enough
    alone = [accuracies(sums(values, 64), 0) for values in (old[:1], old[:1] + 20)]
    assert paired.difference(*alone, images=1, level=0.95) is None


def test_undefined_resamples_are_left_out() -> None:
    old, new = np.array([0.1, np.nan, 0.2, 0.3]), np.array([0.2, 0.5, np.nan, 0.5])
    found = paired.difference(old, new, images=50, level=0.5)
    assert (found.resamples, found.low, found.high) == (
        2,
        pytest.approx(0.125, abs=1e-3),
        pytest.approx(0.175, abs=1e-3),
    )
    assert paired.difference(old[1:2], new[1:2], images=50, level=0.5) is None
