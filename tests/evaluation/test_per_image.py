"""images.npz: what comes back is what was measured, resamples of it are those of the images, and damage is refused."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.data import rle
from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.data.schema import ClassInfo, Record, Segment
from pipelines.errors import DataError
from pipelines.evaluation import per_image
from pipelines.evaluation.evaluator import Detail, Evaluator
from pipelines.evaluation.per_image import PerImage

CLASSES = (
    ClassInfo(name="sky", color=(0, 0, 0), isthing=False),
    ClassInfo(name="cat", color=(1, 1, 1), isthing=True),
    ClassInfo(name="dog", color=(2, 2, 2), isthing=True),
)
DETAIL = Detail(boundary=0.02, edge=0.02, resamples=0, seed=0)
HEADLINE = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}
TASKS = list(HEADLINE)


def scene(rng: np.random.Generator, noise: float) -> tuple[Record, Prediction]:
    """Two animals on a sky, and a prediction that is off by some pixels, and sometimes of the wrong kind."""
    ids = np.zeros((24, 24), np.int32)
    labels = rng.integers(1, 3, 2)
    boxes = [(2, 2, int(rng.integers(5, 9))), (13, 12, int(rng.integers(5, 9)))]
    for number, (y, x, size) in enumerate(boxes, start=2):
        ids[y : y + size, x : x + size] = number
    found = np.where(rng.random(ids.shape) < noise, 1, np.where(ids == 0, 1, ids)).astype(np.int32)
    guessed = np.where(rng.random(2) < noise, 3 - labels, labels)
    masks = np.stack([found == 2, found == 3])
    segments = tuple(
        Segment(
            category=int(label), iscrowd=False, area=size * size, bbox=(x, y, size, size),
            counts=rle.encode(ids == number),
        )
        for number, label, (y, x, size) in zip((2, 3), labels, boxes, strict=True)
    )  # fmt: skip
    semantic = np.select([ids == 2, ids == 3], labels.tolist(), 0).astype(np.uint8)
    record = Record(
        id="", split="test", image=b"", format="png", height=24, width=24, semantic=semantic, segments=segments
    )
    instances = Instances(
        masks=masks, labels=guessed, scores=rng.random(2).astype(np.float32),
        boxes=np.array([[x, y, x + s, y + s] for y, x, s in boxes], np.float32),
    )  # fmt: skip
    return record, Prediction(
        semantic=np.select([found == 2, found == 3], guessed.tolist(), 0).astype(np.uint8),
        instances=instances,
        panoptic=Panoptic(ids=found, labels=np.array([0, *guessed]), iscrowd=np.zeros(3, bool)),
    )


def scenes(count: int, noise: float, seed: int = 0) -> list[tuple[Record, Prediction]]:
    return [scene(np.random.default_rng([seed, i]), noise) for i in range(count)]


def measured(task: str, images: list[tuple[Record, Prediction]], detail: Detail | None = DETAIL) -> Evaluator:
    evaluator = Evaluator(task=task, classes=CLASSES, detail=detail)
    for record, prediction in images:
        evaluator.update(record, prediction)
    return evaluator


def kept(task: str, images: list[tuple[Record, Prediction]], path: Path) -> PerImage:
    PerImage.of(measured(task, images), [str(i) for i in range(len(images))]).write(path)
    return PerImage.read(path, task=task, classes=CLASSES)


@pytest.mark.parametrize("task", TASKS)
def test_its_headline_is_the_evaluator_s(task: str, tmp_path: Path) -> None:
    images = scenes(9, 0.2)
    found = kept(task, images, tmp_path / "images.npz")
    assert found.headline() == pytest.approx(measured(task, images).compute()[task][HEADLINE[task]], abs=1e-12)
    assert found.ids == tuple("012345678")


@pytest.mark.parametrize("task", TASKS)
def test_a_difference_is_that_of_the_metrics_of_the_images_drawn(task: str, tmp_path: Path) -> None:
    """Brute force: every resample's images are drawn, and both models are measured on them from the start."""
    first, second = scenes(7, 0.3), scenes(7, 0.1)
    old, new = (kept(task, images, tmp_path / f"{i}.npz") for i, images in enumerate((first, second)))
    draws = np.random.default_rng(5).integers(7, size=(25, 7))
    expected = []
    for drawn in np.sort(draws, axis=1):
        scores = [
            measured(task, [images[i] for i in drawn], None).compute()[task][HEADLINE[task]]
            for images in (first, second)
        ]
        expected.append(np.nan if None in scores else scores[1] - scores[0])
    name = HEADLINE[task]
    replicates = [each.replicates(resamples=25, seed=5)[name] for each in (old, new)]
    assert replicates[1] - replicates[0] == pytest.approx(np.array(expected), abs=1e-9, nan_ok=True)
    found = per_image.difference(old, new, level=0.95, resamples=400, seed=5)
    assert 0 < found.low < new.headline() - old.headline() < found.high
    assert per_image.difference(old, new, level=0.95, resamples=400, seed=5) == found
    swapped = per_image.difference(new, old, level=0.95, resamples=400, seed=5)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low))


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        kept("panoptic", scenes(3, 0.2), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_images_are_not_compared(tmp_path: Path) -> None:
    few, many = (kept("semantic", scenes(n, 0.2), tmp_path / str(n)) for n in (3, 4))
    with pytest.raises(DataError, match="different images: 3 and 4"):
        per_image.difference(few, many, level=0.95, resamples=200, seed=0)


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    with pytest.raises(DataError, match=r"images.npz is missing\ndo: measure again"):
        PerImage.read(path, task="semantic", classes=CLASSES)
    kept("instance", scenes(3, 0.2), path)
    with pytest.raises(DataError, match="it holds nothing of the semantic task"):
        PerImage.read(path, task="semantic", classes=CLASSES)
    with pytest.raises(DataError, match=r"classes \[2\] are not among the things \[1\]"):
        PerImage.read(path, task="instance", classes=CLASSES[:2])
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-40], whole[:100]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is no record of images"):
            PerImage.read(path, task="instance", classes=CLASSES)
    with path.open("wb") as file:
        np.savez(file, ids=np.array([{"a": 1}], object))  # a pickle
    with pytest.raises(DataError, match="is no record of images: Object arrays cannot be loaded"):
        PerImage.read(path, task="instance", classes=CLASSES)
    with path.open("wb") as file:
        np.savez(file, ids=np.array(["0"]), semantic=np.full((1, 3, 3), np.nan))
    with pytest.raises(DataError, match="sums that are no numbers"):
        PerImage.read(path, task="semantic", classes=CLASSES)


@pytest.mark.parametrize("task", TASKS)
def test_each_image_s_score_is_that_of_an_evaluation_of_it_alone(task: str, tmp_path: Path) -> None:
    images = scenes(5, 0.3)
    expected = [measured(task, [image], detail=None).headline() for image in images]
    assert kept(task, images, tmp_path / "images.npz").scores() == pytest.approx(expected, abs=1e-12)
