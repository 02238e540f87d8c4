"""Augmentation: image and labels stay one, and the randomness is a function of (seed, epoch, index)."""

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch

from pipelines.data import rle
from pipelines.data.schema import IGNORE, Record, Segment
from pipelines.loading import augment as augmentation
from pipelines.loading.instances import MIN_PIXELS
from pipelines.targets import InstanceTargets

pytestmark = pytest.mark.filterwarnings("error")  # Albumentations warns of arguments that it does not know
PLAIN = {"crop": [64, 64], "scale": [1.0, 1.0], "flip": 0.0, "color": 0.0}
LIVELY = {"crop": [48, 80], "scale": [0.5, 2.0], "flip": 0.5, "color": 0.5}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """As the loop sees it."""

    image: torch.Tensor
    semantic: torch.Tensor
    instances: InstanceTargets


class Augment(augmentation.Augment):
    def __call__(self, record: Record, image: np.ndarray, key: tuple[int, int, int]) -> Sample:
        sample = super().__call__(record, image, key)
        return Sample(
            image=torch.from_numpy(sample.image).permute(2, 0, 1),
            semantic=torch.from_numpy(sample.semantic),
            instances=sample.instances.dense(*sample.semantic.shape),
        )


def record(semantic: np.ndarray, masks: Sequence[np.ndarray] = (), categories: Sequence[int] = ()) -> Record:
    """Categories above 100 are crowds."""
    height, width = semantic.shape
    segments = tuple(
        Segment(category=c, bbox=rle.bbox(m), area=int(m.sum()), iscrowd=c > 100, counts=rle.encode(m))
        for m, c in zip(masks, categories, strict=True)
    )
    return Record(
        id="a", split="train", image=b"", format="png", height=height, width=width, semantic=semantic, segments=segments
    )


def tiles(height: int = 72, width: int = 96, side: int = 12) -> tuple[Record, np.ndarray]:
    """A board of tiles, each an instance of its own class, every fourth a crowd; all that is labelled is coloured."""
    rows, cols = height // side, width // side
    number = np.arange(rows * cols).reshape(rows, cols)
    category = np.where(number % 4 == 0, 100 + number // 4 + 1, number + 1).astype(np.uint8)
    semantic = category.repeat(side, axis=0).repeat(side, axis=1)
    image = np.stack([semantic, 255 - semantic, semantic], axis=-1)
    values = category.ravel().tolist()
    return record(semantic, [semantic == c for c in values], values), image


def disc(seed: int) -> tuple[Record, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    mask = np.hypot(y - rng.uniform(35, 60), x - rng.uniform(35, 60)) < rng.uniform(10, 20)
    return record(mask.astype(np.uint8), [mask], [1]), np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)


def same(a: Sample, b: Sample) -> bool:
    fields = ("masks", "labels", "boxes", "iscrowd")
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.semantic, b.semantic)
        and all(torch.equal(getattr(a.instances, f), getattr(b.instances, f)) for f in fields)
    )


def test_masks_lie_where_the_image_says():
    """A white disc, scaled, cropped and flipped: the mask must be the disc, without a shift to any side."""
    augment = Augment(crop=[160, 160], scale=[0.6, 1.6], flip=0.5, color=0.0)
    overlaps, shifts = [], []
    for index in range(60):
        sample = augment(*disc(index), (0, 0, index))
        seen = sample.image[0] > 127
        for mask in (sample.semantic == 1, sample.instances.masks[0]):
            overlaps.append(((mask & seen).sum() / (mask | seen).sum()).item())
            shifts.append(mask.nonzero().float().mean(dim=0) - seen.nonzero().float().mean(dim=0))
    assert np.mean(overlaps) > 0.98
    assert torch.stack(shifts).mean(dim=0).abs().max() < 0.1


def test_the_colour_leaves_the_labels_alone():
    bright, plain = (Augment(**{**LIVELY, "color": color}) for color in (0.5, 0.0))
    for index in range(5):
        a, b = (augment(*tiles(), (0, 0, index)) for augment in (bright, plain))
        assert torch.equal(a.semantic, b.semantic)
        assert torch.equal(a.instances.masks, b.instances.masks)
    assert any(not torch.equal(bright(*tiles(), (0, 0, i)).image, plain(*tiles(), (0, 0, i)).image) for i in range(5))


@pytest.mark.parametrize("index", range(12))
def test_what_is_left_of_each_instance_keeps_its_class_its_box_and_its_crowd_flag(index):
    sample = Augment(**LIVELY)(*tiles(), (0, 0, index))
    truth = sample.instances
    assert sample.image.shape == (3, 48, 80)
    assert sample.image.dtype == sample.semantic.dtype == torch.uint8
    found = {int(c): int((sample.semantic == c).sum()) for c in sample.semantic.unique() if c != IGNORE}
    assert truth.labels.tolist() == [c for c in classes_in_order() if found.get(c, 0) >= MIN_PIXELS]
    for mask, label, box, crowd in zip(truth.masks, truth.labels, truth.boxes, truth.iscrowd, strict=True):
        assert torch.equal(mask, sample.semantic == label)
        assert crowd == (label > 100)
        y, x = mask.nonzero(as_tuple=True)
        assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


def classes_in_order() -> list[int]:
    return [s.category for s in tiles()[0].segments]


def test_some_instances_do_fall_away():
    left = [len(Augment(**LIVELY)(*tiles(), (0, 0, index)).instances.labels) for index in range(12)]
    assert min(left) < len(tiles()[0].segments)


def test_padding_is_ignored_and_in_no_instance():
    semantic = np.ones((20, 24), np.uint8)
    augment = Augment(**{**PLAIN, "scale": [0.5, 2.0], "flip": 0.5})
    corners = set()
    for index in range(10):
        sample = augment(record(semantic, [semantic == 1], [1]), np.full((20, 24, 3), 9, np.uint8), (0, 0, index))
        padding = sample.image.sum(dim=0) == 0
        assert padding.any()
        assert torch.equal(padding, sample.semantic == IGNORE)
        assert torch.equal(~padding, sample.instances.masks[0])
        corners.add(tuple(sample.instances.boxes[0, :2].tolist()))
    assert len(corners) > 5, "the image does not always lie in the same corner"


def test_ignored_pixels_stay_ignored():
    semantic = np.full((64, 64), IGNORE, np.uint8)
    sample = Augment(**PLAIN)(record(semantic), np.zeros((64, 64, 3), np.uint8), (0, 0, 0))
    assert (sample.semantic == IGNORE).all()


def test_nothing_there_is_an_empty_truth_of_the_right_shapes():
    for masks in ([], [np.eye(64, dtype=bool) & (np.arange(64) < MIN_PIXELS - 1)]):  # none; one too small to learn
        sample = Augment(**PLAIN)(
            record(np.zeros((64, 64), np.uint8), masks, [1] * len(masks)), np.zeros((64, 64, 3), np.uint8), (0, 0, 0)
        )
        truth = sample.instances
        assert (truth.masks.shape, truth.masks.dtype) == ((0, 64, 64), torch.bool)
        assert (truth.labels.shape, truth.labels.dtype) == ((0,), torch.int64)
        assert (truth.boxes.shape, truth.boxes.dtype) == ((0, 4), torch.float32)
        assert (truth.iscrowd.shape, truth.iscrowd.dtype) == ((0,), torch.bool)


def test_hundreds_of_instances_are_not_too_many():
    """OpenCV takes 512 channels at most; a picture of nuclei has more."""
    height, width = 60, 80
    number = np.arange(height * width // 8)
    masks = (np.arange(height * width) // 8 == number[:, None]).reshape(-1, height, width)
    sample = Augment(**{**PLAIN, "scale": [1.2, 1.2]})(
        record(np.ones((height, width), np.uint8), masks, [1] * len(masks)),
        np.zeros((height, width, 3), np.uint8),
        (0, 0, 0),
    )
    assert 200 < len(sample.instances.labels) <= len(masks)
    assert sample.instances.masks.sum(dim=0).max() == 1


def test_the_randomness_is_a_function_of_seed_epoch_and_index():
    augment = Augment(**LIVELY)
    keys = [(seed, epoch, index) for seed in range(2) for epoch in range(2) for index in range(3)]
    once = {key: augment(*tiles(), key) for key in keys}
    np.random.seed(7)  # nobody else's randomness plays a part
    torch.manual_seed(7)
    cv2.setRNGSeed(7)
    for key in reversed(keys):
        assert same(augment(*tiles(), key), once[key]), "it depends on the calls before"
        assert same(Augment(**LIVELY)(*tiles(), key), once[key]), "it depends on the object"
        assert same(pickle.loads(pickle.dumps(augment))(*tiles(), key), once[key])  # noqa: S301 - as a loader worker does
    samples = list(once.values())
    assert not any(same(a, b) for i, a in enumerate(samples) for b in samples[:i])


def test_the_arguments_are_left_as_they_were():
    made, image = tiles()
    semantic = made.semantic.copy()
    image.flags.writeable = made.semantic.flags.writeable = False  # as views into a mapped shard are
    sample = Augment(**LIVELY)(made, image, (0, 0, 0))
    sample.semantic.fill_(0)
    assert (made.semantic == semantic).all()


def test_the_draws_of_a_sample_have_nothing_to_do_with_each_other():
    """Scale, place, flip, whether and how the colours change: each of the others must be as it is, whatever one is."""
    augment = Augment(**{**LIVELY, "color": 0.4})
    semantic, image = np.zeros((200, 200), np.uint8), np.full((200, 200, 3), 100, np.uint8)
    drawn = []
    for index in range(1500):
        sample = augment(record(semantic), image, (5, 0, index))
        window = augment.geometry.get_applied_params()["window"]
        place = (window.y.start / (window.y.scaled - 48), window.x.start / (window.x.scaled - 80))
        colour = float(sample.image.float().mean())
        drawn.append((window.y.scaled, *place, window.flip, colour != 100, colour))
    related = np.corrcoef(np.array(drawn, float).T) - np.eye(6)
    assert abs(related[:5, :5]).max() < 0.12  # more than four times what chance makes of so many
    assert abs(related[5, :4]).max() < 0.12
