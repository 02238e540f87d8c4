"""J and F as davis2017-evaluation's formulas give them, on whole frames with scipy's and scikit-image's morphology."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import ndimage
from skimage.morphology import disk

from pipelines.metrics.video_objects import VideoObjectMetrics, region_and_contour, statistics

Maps = Sequence[np.ndarray]


def blobs(rng: np.random.Generator, size: tuple[int, int], objects: int) -> np.ndarray:
    """A map of objects that may be cut by the frame, hide each other, or be nowhere."""
    found = np.zeros(size, np.uint8)
    y, x = np.ogrid[: size[0], : size[1]]
    for identity in range(1, objects + 1):
        (cy, cx), (ry, rx) = rng.uniform(-4, np.add(size, 4)), rng.uniform(1, 14, 2)
        found[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1] = identity
    return found


def disturbed(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    return np.roll(truth, rng.integers(-2, 3, 2), (0, 1)) * (rng.random(truth.shape) > 0.02)


def outline(mask: np.ndarray) -> np.ndarray:
    """seg2bmap: exclusive ors with the map moved left, up, and both; its last row and column are special."""
    east, south, both = np.zeros_like(mask), np.zeros_like(mask), np.zeros_like(mask)
    east[:, :-1], south[:-1], both[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    found = (mask ^ east) | (mask ^ south) | (mask ^ both)
    found[-1] = mask[-1] ^ east[-1]
    found[:, -1] = mask[:, -1] ^ south[:, -1]
    found[-1, -1] = False
    return found


def davis(truth: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    union = np.sum(truth | found)
    j = 1.0 if union == 0 else np.sum(truth & found) / union
    disc = disk(int(np.ceil(0.008 * np.linalg.norm(truth.shape))))
    edges = outline(truth), outline(found)
    near = [ndimage.binary_dilation(edge, disc) for edge in edges]
    there, drawn = edges[0].sum(), edges[1].sum()
    if drawn == 0 and there > 0:
        precision, recall = 1.0, 0.0
    elif drawn > 0 and there == 0:
        precision, recall = 0.0, 1.0
    elif drawn == 0:
        precision = recall = 1.0
    else:
        precision, recall = (edges[1] & near[0]).sum() / drawn, (edges[0] & near[1]).sum() / there
    return j, 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@pytest.mark.parametrize("size", [(40, 50), (90, 130), (17, 240)])
def test_equals_the_formulas_on_whole_frames(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    for _ in range(60):
        truth = blobs(rng, size, 1) > 0
        found = disturbed(rng, truth) > 0 if rng.random() < 0.8 else blobs(rng, size, 1) > 0
        assert region_and_contour(truth, found) == pytest.approx(davis(truth, found), abs=1e-15)


@pytest.mark.parametrize("filled", [(False, False), (True, False), (False, True), (True, True)])
def test_empty_and_full_frames(filled: tuple[bool, bool]) -> None:
    truth, found = (np.full((20, 30), fill) for fill in filled)
    assert region_and_contour(truth, found) == davis(truth, found)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 34, 78])
def test_decay_is_of_davis_s_quarters(length: int) -> None:
    values = np.random.default_rng(length).random(length)
    ids = (np.round(np.linspace(1, length, 5) + 1e-10) - 1).astype(np.uint8)
    bins = [values[ids[i] : ids[i + 1] + 1] for i in range(4)]
    expected = (np.nanmean(values), np.nanmean(values > 0.5), np.nanmean(bins[0]) - np.nanmean(bins[3]))
    assert statistics(values) == pytest.approx(expected, abs=1e-15)


def video(seed: int, objects: int = 3, frames: int = 8) -> tuple[Maps, Maps]:
    rng = np.random.default_rng(seed)
    truth = [blobs(rng, (40, 60), objects) for _ in range(frames)]
    return truth, [disturbed(rng, each) for each in truth]


def measured(seeds: Sequence[int]) -> VideoObjectMetrics:
    metrics = VideoObjectMetrics()
    for seed in seeds:
        truth, found = video(seed)
        metrics.update(f"v{seed}", {1: 0, 2: 0, 3: 0}, zip(truth, found, strict=True), count=8)
    return metrics


def test_scores_are_the_means_of_all_objects_without_first_and_last_frames() -> None:
    every = []
    for seed in (0, 1):
        truth, found = (np.stack(maps)[1:-1] for maps in video(seed))
        for identity in (1, 2, 3):
            pairs = zip(truth == identity, found == identity, strict=True)
            every.append(np.array([davis(t, f) for t, f in pairs]))
    result = measured([0, 1]).compute()
    for column, name in enumerate("jf"):
        expected = np.mean([statistics(values[:, column]) for values in every], axis=0)
        assert [result[name], result[f"{name}_recall"], result[f"{name}_decay"]] == pytest.approx(expected.tolist())
        assert result["per_object"]["v1_2"][name] == pytest.approx(every[4][:, column].mean())
    assert result["jf"] == pytest.approx((result["j"] + result["f"]) / 2)


def test_an_object_that_comes_later_counts_from_the_frame_behind_its_first() -> None:
    truth, found = video(5)
    metrics = VideoObjectMetrics()
    metrics.update("v", {1: 0, 2: 4}, zip(truth, found, strict=True), count=8)
    assert [len(each.j) for each in metrics.objects] == [6, 2]
    late = [davis(truth[k] == 2, found[k] == 2)[0] for k in (5, 6)]
    assert metrics.compute()["per_object"]["v_2"]["j"] == pytest.approx(np.mean(late))


def test_merged_parts_are_the_whole() -> None:
    parts = measured([0])
    parts.merge(measured([1, 2]))
    assert parts.compute() == measured([0, 1, 2]).compute()


def test_nothing_seen_has_no_score() -> None:
    assert VideoObjectMetrics().compute()["jf"] is None


def test_frames_that_do_not_fit_are_refused() -> None:
    maps = [np.zeros((4, 5), np.uint8)] * 3
    with pytest.raises(ValueError, match=r"v, frame 0: masks of \(5, 4\), expected \(4, 5\)"):
        VideoObjectMetrics().update("v", {1: 0}, zip(maps, [m.T for m in maps], strict=True), count=3)
    with pytest.raises(ValueError, match="v: 3 frames, expected 4"):
        VideoObjectMetrics().update("v", {1: 0}, zip(maps, maps, strict=True), count=4)
