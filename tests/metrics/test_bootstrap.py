"""Resampling by sums against resampling the images themselves, against scipy, and whether 95 % is 95 %."""

import numpy as np
import pytest
from scipy import stats

from pipelines.data.prediction import Panoptic
from pipelines.data.schema import IGNORE
from pipelines.metrics import bootstrap, panoptic, semantic
from pipelines.metrics.panoptic import PanopticMetrics
from pipelines.metrics.semantic import SemanticMetrics

NAMES = ("road", "sky", "car")


def scenes(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Truth and prediction; the last class is in the first image alone, so that not every resample has it."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        truth = rng.choice([0, 1, IGNORE], (8, 9), p=[0.6, 0.3, 0.1]).astype(np.uint8)
        predicted = np.where(rng.random((8, 9)) < rng.uniform(0.5, 1), truth, 1 - truth % 2).astype(np.uint8)
        if i == 0:
            truth[:3], predicted[:2] = 2, 2
        made.append((truth, np.where(predicted == IGNORE, 0, predicted).astype(np.uint8)))
    return made


def draws(n: int, resamples: int, seed: int) -> np.ndarray:
    """The indices that are documented: of one generator, a resample after the other."""
    return np.random.default_rng(seed).integers(n, size=(resamples, n))


def measured(images: list[tuple[np.ndarray, np.ndarray]]) -> SemanticMetrics:
    metrics = SemanticMetrics(NAMES)
    for truth, predicted in images:
        metrics.update(truth, predicted)
    return metrics


def semantic_sums(images: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    return np.stack([measured([image]).totals for image in images])


def test_a_replicate_is_what_the_resampled_images_score() -> None:
    images = scenes(7)
    found = bootstrap.replicates(semantic_sums(images), semantic.scores, resamples=40, seed=3)
    undefined = 0
    for k, drawn in enumerate(draws(7, 40, 3)):
        expected = measured([images[i] for i in drawn]).compute()
        for name, value in expected.items():
            values = list(value.values()) if isinstance(value, dict) else [value]
            undefined += values.count(None)
            wanted = [np.nan if v is None else v for v in values]
            assert np.atleast_1d(found[name][k]) == pytest.approx(wanted, nan_ok=True, abs=1e-12), name
    assert undefined  # the class of one image was not always drawn


def test_a_panoptic_replicate_too() -> None:
    rng = np.random.default_rng(0)
    whole = []
    for _ in range(6):
        ids = np.repeat(rng.integers(0, 4, (4, 2)), 4, axis=1).astype(np.int32)
        noisy = np.where(rng.random(ids.shape) < 0.8, ids, 1).astype(np.int32)
        labels = np.array([0, 1, 2])
        crowdless = np.zeros(3, bool)
        whole.append([Panoptic(ids=x, labels=labels, iscrowd=crowdless) for x in (ids, noisy)])

    def measure(pairs: list[list[Panoptic]]) -> PanopticMetrics:
        metrics = PanopticMetrics(NAMES, things=[1, 2])
        for truth, predicted in pairs:
            metrics.update(truth, predicted)
        return metrics

    sums = np.stack([measure([pair]).totals for pair in whole])
    found = bootstrap.replicates(sums, lambda t: panoptic.scores(t, [1, 2]), resamples=30, seed=1)
    for k, drawn in enumerate(draws(6, 30, 1)):
        expected = measure([whole[i] for i in drawn]).compute()
        for name in ("pq", "sq", "rq", "pq_things", "pq_stuff"):
            assert found[name][k] == pytest.approx(expected[name], abs=1e-12)
    assert np.ptp(found["pq"]) > 0.01


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sums = semantic_sums(scenes(9))
    whole = bootstrap.replicates(sums, semantic.scores, resamples=25, seed=0)
    monkeypatch.setattr(bootstrap, "DRAWS", 40)  # four resamples at a time
    assert np.array_equal(bootstrap.replicates(sums, semantic.scores, resamples=25, seed=0)["miou"], whole["miou"])


def test_the_interval_is_scipy_s() -> None:
    """The same method on the same statistic, other draws: the ends agree as far as 20,000 resamples settle them."""
    sums = semantic_sums(scenes(30))

    def accuracy(right: np.ndarray, true: np.ndarray, axis: int = -1) -> np.ndarray:
        return right.sum(axis=axis) / true.sum(axis=axis)

    theirs = stats.bootstrap(
        tuple(sums[..., :2].sum(axis=1).T), accuracy, paired=True, vectorized=True, n_resamples=20_000,
        method="percentile", random_state=np.random.default_rng(5),
    ).confidence_interval  # fmt: skip
    replicates = bootstrap.replicates(sums, semantic.scores, resamples=20_000, seed=0)["pixel_accuracy"]
    low, high = bootstrap.interval(replicates)
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.05 * (high - low))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Accuracy of images from a known population; percentile intervals of 60 images come out a little narrow."""
    rng, covered = np.random.default_rng(0), 0
    for trial in range(300):
        share = rng.beta(8, 2, 60)  # of mean 0.8
        sums = np.stack([rng.binomial(200, share), np.full(60, 200), np.full(60, 200)], axis=-1)[:, None]
        replicates = bootstrap.replicates(sums, semantic.scores, resamples=400, seed=trial)["pixel_accuracy"]
        low, high = bootstrap.interval(replicates)
        covered += low <= 0.8 <= high
    assert 0.91 <= covered / 300 <= 0.98


def test_undefined_resamples_are_left_out_and_an_undefined_score_has_no_interval() -> None:
    replicate = np.full((100, 2), np.nan)
    replicate[:50, 0] = np.linspace(0, 1, 50)
    found = bootstrap.interval(replicate)
    assert found[0] == pytest.approx([0.025, 0.975])
    assert np.isnan(found[1]).all()


def test_a_paired_bootstrap_is_the_difference_of_replicates() -> None:
    """The same seed draws the same images for both: a model that is better on each image is so in each resample."""
    worse = semantic_sums(scenes(12))[:, :2]
    better = worse.copy()
    better[..., 0] += (worse[..., 1] - worse[..., 0]) // 2
    of_both = [
        bootstrap.replicates(s, semantic.scores, resamples=200, seed=4)["pixel_accuracy"] for s in (worse, better)
    ]
    assert (of_both[1] > of_both[0]).all()
    assert of_both[0].max() > of_both[1].min()  # not so without the pairs
