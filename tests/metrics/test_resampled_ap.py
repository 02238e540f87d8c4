"""AP of resamples by weights against the metrics of the images that were drawn."""

import numpy as np
import pytest

from pipelines.data import rle
from pipelines.data.prediction import Instances
from pipelines.data.schema import Segment
from pipelines.metrics import bootstrap, resampled_ap
from pipelines.metrics.instance import InstanceMetrics

NAMES = ("sky", "cell", "rare", "never")
THINGS = (1, 2, 3)
SIZE = (40, 40)
Image = tuple[list[Segment], Instances]


def scene(rng: np.random.Generator, label: int) -> Image:
    """Squares on a grid, moved, lost and invented; some of them crowds."""
    truth, masks = [], []
    for y, x in ((y, x) for y in range(0, 40, 10) for x in range(0, 40, 10)):
        mask = np.zeros(SIZE, bool)
        mask[y + 1 : y + 9, x + 1 : x + rng.integers(5, 10)] = True
        if rng.random() < 0.7:
            box, crowd = rle.bbox(mask), bool(rng.random() < 0.1)
            truth.append(Segment(category=label, bbox=box, area=64, iscrowd=crowd, counts=rle.encode(mask)))
        if rng.random() < 0.7:
            masks.append(np.roll(mask, rng.integers(0, 4), axis=0))
    boxes = np.array([rle.bbox(m) for m in masks], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    found = Instances(
        masks=np.array(masks, bool).reshape(-1, *SIZE),
        labels=np.where(rng.random(len(masks)) < 0.9, label, 1),
        scores=rng.permutation(np.linspace(0.1, 0.9, 16))[: len(masks)].astype(np.float32),  # ties between images alone
        boxes=boxes,
    )
    return truth, found


def scenes(count: int) -> list[Image]:
    """One class is in the first two images alone, so that not every resample has it."""
    rng = np.random.default_rng(0)
    return [scene(rng, 2 if i < 2 else 1) for i in range(count)]


def measured(images: list[Image]) -> InstanceMetrics:
    metrics = InstanceMetrics(NAMES, things=THINGS, boundary=0.02)
    for truth, found in images:
        metrics.update(truth, SIZE, found)
    return metrics


@pytest.mark.parametrize("view", ["segm", "box", "boundary"])
def test_a_replicate_is_what_the_resampled_images_score(view: str) -> None:
    images = scenes(6)
    found = resampled_ap.replicates(measured(images), view, resamples=40, seed=3)
    undefined = 0
    for k, drawn in enumerate(np.random.default_rng(3).integers(6, size=(40, 6))):
        result = measured([images[i] for i in sorted(drawn)]).compute()
        expected = result if view == "segm" else result[view]
        for key in ("ap", "ap50", "ap75"):
            assert found[key][k] == pytest.approx(expected[key], abs=1e-12)
        for c in THINGS:
            value = expected["ap_per_class"][NAMES[c]]
            undefined += value is None
            wanted = np.nan if value is None else value
            assert found["ap_per_class"][k, c] == pytest.approx(wanted, abs=1e-12, nan_ok=True)
    assert undefined > 40  # the class of two images was not always drawn
    assert np.ptp(found["ap"]) > 0.02


def test_blocks_and_shares_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = scenes(7)
    whole = resampled_ap.replicates(measured(images), "segm", resamples=25, seed=0)
    monkeypatch.setattr(bootstrap, "DRAWS", 200)
    shares = measured(images[:3])
    shares.merge(measured(images[3:]))
    assert np.array_equal(resampled_ap.replicates(shares, "segm", resamples=25, seed=0)["ap"], whole["ap"])


@pytest.mark.parametrize("keep", ["truths", "detections", "nothing"])
def test_without_truths_there_is_none_and_without_detections_it_is_zero(keep: str) -> None:
    (truth, found), blank = scenes(3)[2], np.zeros(0, int)
    nothing = Instances(masks=found.masks[blank], labels=blank, scores=found.scores[blank], boxes=found.boxes[blank])
    image = (truth if keep == "truths" else [], found if keep == "detections" else nothing)
    replicates = resampled_ap.replicates(measured([image] * 3), "segm", resamples=4, seed=0)
    assert np.array_equal(replicates["ap"], [0.0 if keep == "truths" else np.nan] * 4, equal_nan=True)
