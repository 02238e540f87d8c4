"""Every number of COCOeval: the frames of a video one below the other are a tall image, in which the IoU of two
masks is that of the tracks."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from pipelines.data import rle
from pipelines.data.tracks import Track
from pipelines.metrics.video_instances import SIZES, VideoInstanceMetrics, overlap

NAMES = ("sky", "cell", "car", "never")
THINGS = (1, 2, 3)
SIZE = (150, 160)  # tracks of all three sizes fit
KEYS = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
KEYS += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


@dataclass(frozen=True)
class Seen:
    """A track and its frames bool[frames, h, w]."""

    category: int
    frames: np.ndarray
    score: float = 1.0
    iscrowd: bool = False

    @property
    def track(self) -> Track:
        masks = tuple(rle.encode(frame) if frame.any() else None for frame in self.frames)
        return Track(category=self.category, masks=masks, score=self.score, iscrowd=self.iscrowd)

    @property
    def tall(self) -> Any:
        return coco_mask.encode(np.asfortranarray(self.frames.reshape(-1, self.frames.shape[2]), np.uint8))

    @property
    def area(self) -> float:
        areas = [a for a in self.frames.sum(axis=(1, 2)).tolist() if a]
        return float(np.mean(areas)) if areas else 0.0


def moving(rng: np.random.Generator, frames: int) -> np.ndarray:
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    (cy, cx), (vy, vx), radius = rng.uniform(0, SIZE), rng.uniform(-9, 9, 2), rng.choice([6, 40, 90])
    disc = [np.hypot(y - cy - k * vy, x - cx - k * vx) <= radius for k in range(frames)]
    return np.array(disc) & (rng.random(frames) < 0.85)[:, None, None]  # now and then it is not seen


def video(seed: int) -> tuple[list[Seen], list[Seen]]:
    """Predictions are shifted, lose frames, change over to another object, are invented; scores tie."""
    rng = np.random.default_rng(seed)
    frames = int(rng.integers(1, 6))
    truth = [
        Seen(int(rng.integers(1, 3)), moving(rng, frames), iscrowd=bool(rng.random() < 0.15))
        for _ in range(rng.integers(0, 5))
    ]
    found = []
    for _ in range(rng.integers(0, 9)):
        masks, category = moving(rng, frames), int(rng.integers(1, 4))
        if truth and rng.random() < 0.85:
            model, other = (truth[i] for i in rng.integers(len(truth), size=2))
            at = int(rng.integers(0, frames + 1))
            masks = np.concatenate([model.frames[:at], (other if rng.random() < 0.3 else model).frames[at:]])
            masks = np.roll(masks, rng.integers(-3, 4, 2), (1, 2)) & (rng.random(frames) < 0.9)[:, None, None]
            category = model.category
        found.append(Seen(category, masks, score=round(float(rng.random()), 1)))
    return truth, found


def measured(videos: Sequence[tuple[list[Seen], list[Seen]]]) -> VideoInstanceMetrics:
    metrics = VideoInstanceMetrics(NAMES, things=THINGS)
    for truth, found in videos:
        metrics.update([t.track for t in truth], SIZE, [f.track for f in found])
    return metrics


def cocoeval(videos: Sequence[tuple[list[Seen], list[Seen]]]) -> list[float]:
    truths, found, images = [], [], []
    for number, (truth, predicted) in enumerate(videos, start=1):
        frames = next((len(s.frames) for s in (*truth, *predicted)), 1)
        images.append({"id": number, "height": frames * SIZE[0], "width": SIZE[1]})
        for rows, many in ((truths, truth), (found, predicted)):
            for one in many:
                row = {"id": len(rows) + 1, "image_id": number, "category_id": one.category, "bbox": [0, 0, 1, 1]}
                row |= {"segmentation": one.tall, "area": one.area, "iscrowd": int(one.iscrowd), "score": one.score}
                rows.append(row)
    areas = {row["id"]: row["area"] for row in found}  # means over the frames, which loadRes forgets
    with contextlib.redirect_stdout(io.StringIO()):
        gt = COCO()
        gt.dataset = {"images": images, "annotations": truths, "categories": [{"id": c} for c in THINGS]}
        gt.createIndex()
        dt = gt.loadRes(found) if found else COCO()
        for row in dt.anns.values():
            row["area"] = areas[row["id"]]
        evaluation = COCOeval(gt, dt, "segm")
        evaluation.params.areaRng = [list(bounds) for bounds in SIZES.values()]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


@pytest.mark.parametrize("seed", range(6))
def test_equals_cocoeval_of_tall_images(seed: int) -> None:
    # YouTube-VIS meets a crowd by the plain IoU, COCO by the share of the detection in it: crowds have a test below.
    seeds = range(8 * seed, 8 * seed + 8)
    videos = [([t for t in truth if not t.iscrowd], found) for truth, found in map(video, seeds)]
    result = measured(videos).compute()
    # Both take means of the same values, in another order.
    found = [-1.0 if result[key] is None else result[key] for key in KEYS]
    assert found == pytest.approx(cocoeval(videos), abs=1e-13)


def test_overlap_is_of_all_frames_together() -> None:
    for seed in range(10):
        truth, found = video(seed)
        dense = [[f.frames & t.frames for t in truth] for f in found]
        union = [[f.frames | t.frames for t in truth] for f in found]
        expected = np.array(
            [[i.sum() / max(u.sum(), 1) for i, u in zip(*row, strict=True)] for row in zip(dense, union, strict=True)]
        ).reshape(len(found), len(truth))
        assert np.array_equal(overlap([f.track for f in found], [t.track for t in truth], SIZE), expected)


def test_a_track_on_a_crowd_counts_neither_way() -> None:
    rng = np.random.default_rng(0)
    one, crowd = moving(rng, 4), np.zeros((4, *SIZE), bool)
    crowd[:, :50, 100:] = True
    one &= ~crowd
    truth = [Seen(1, one), Seen(1, crowd, iscrowd=True)]
    found = [Seen(1, crowd, score=0.9), Seen(1, one, score=0.5)]
    assert measured([(truth, found)]).compute()["ap"] == pytest.approx(1.0)
    alone = [Seen(1, one)]
    assert measured([(alone, found)]).compute()["ap"] == pytest.approx(0.5)


def test_an_identity_that_changes_half_way_is_two_halves() -> None:
    """Perfect masks in each frame, which AP by image could not tell from the truth."""
    left, right = np.zeros((4, *SIZE), bool), np.zeros((4, *SIZE), bool)
    left[:, 20:60, 20:60], right[:, 20:60, 90:130] = True, True
    swapped = [np.concatenate([a[:2], b[2:]]) for a, b in ((left, right), (right, left))]
    truth = [Seen(1, left), Seen(1, right)]
    assert measured([(truth, truth)]).compute()["ap"] == pytest.approx(1.0)
    assert measured([(truth, [Seen(1, s) for s in swapped])]).compute()["ap"] == 0.0


def test_merged_parts_are_the_whole() -> None:
    videos = [video(seed) for seed in range(6)]
    parts = measured(videos[:2])
    parts.merge(measured(videos[2:]))
    assert parts.compute() == measured(videos).compute()


def test_tracks_that_do_not_fit_are_refused() -> None:
    metrics = VideoInstanceMetrics(NAMES, things=THINGS)
    with pytest.raises(ValueError, match=r"tracks of \[1, 2\] frames"):
        metrics.update([Track(category=1, masks=(None,))], SIZE, [Track(category=1, masks=(None, None))])
    with pytest.raises(ValueError, match=r"classes \[0\] are not among the things"):
        metrics.update([], SIZE, [Track(category=0, masks=(None,))])
    with pytest.raises(ValueError, match="finite"):
        metrics.update([], SIZE, [Track(category=1, masks=(None,), score=float("nan"))])
