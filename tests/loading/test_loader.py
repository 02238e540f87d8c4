"""Shards to batches, in this process or in others."""

import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines.data.shards import ShardReader
from pipelines.errors import DataError
from pipelines.loading.augment import Augment
from pipelines.loading.batch import Batch, decode
from pipelines.loading.border import Border
from pipelines.loading.loader import training_loader
from pipelines.loading.sampler import GlobalBatches


def epochs(
    dataset: Path,
    workers: int,
    numbers: list[int],
    *,
    border: Border | None = None,
    factors: np.ndarray | None = None,
) -> list[list[Batch]]:
    reader = ShardReader(dataset, "train")
    batches = GlobalBatches(len(reader), batch_size=4, seed=3, factors=factors)
    augment = Augment(crop=[48, 48], scale=[0.8, 1.25], flip=0.5, color=0.3, border=border)
    loader = training_loader(reader, augment, batches=batches, stride=32, workers=workers)
    found = []
    for number in numbers:
        batches.epoch = number
        found.append(list(loader))
    return found


def assert_same(a: Batch, b: Batch) -> None:
    assert a.ids == b.ids
    assert torch.equal(a.images, b.images)
    assert torch.equal(a.targets.semantic, b.targets.semantic)
    assert (a.targets.border is None) == (b.targets.border is None)
    assert a.targets.border is None or torch.equal(a.targets.border, b.targets.border)
    for x, y in zip(a.targets.instances, b.targets.instances, strict=True):
        assert all(torch.equal(getattr(x, f), getattr(y, f)) for f in ("masks", "labels", "boxes", "iscrowd"))


def test_loader_workers_change_no_bit(dataset):
    alone = epochs(dataset, 0, [0, 1])
    assert len(alone[0]) == 3
    for workers in (1, 2, 4):
        for here, there in zip(chain(*alone), chain(*epochs(dataset, workers, [0, 1])), strict=True):
            assert_same(here, there)
    assert [b.ids for b in alone[0]] != [b.ids for b in alone[1]]


def test_loader_workers_change_no_bit_of_borders_and_repeats(dataset):
    asked = {"border": Border(weight=10.0, sigma=5.0), "factors": np.linspace(1, 3, 12)}
    alone = epochs(dataset, 0, [0, 1], **asked)
    assert len(alone[0]) == 6
    for here, there in zip(chain(*alone), chain(*epochs(dataset, 2, [0, 1], **asked)), strict=True):
        assert_same(here, there)
    borders = torch.cat([b.targets.border for b in chain(*alone)])
    assert (borders.dtype, borders.shape[1:]) == (torch.float32, (64, 64))
    assert borders.max() > 2, "no two things are close to each other"
    assert (borders[:, 48:] == 1).all()


def test_a_border_is_asked_for_or_absent_and_changes_nothing_else(dataset):
    plain, bordered = epochs(dataset, 0, [0]), epochs(dataset, 0, [0], border=Border(weight=10.0, sigma=5.0))
    for a, b in zip(plain[0], bordered[0], strict=True):
        assert a.targets.border is None
        for i, shown in enumerate(b.targets.instances):  # each weighs 1, wherever the crop has put it
            assert (b.targets.border[i][shown.masks.any(dim=0)] == 1).all()
        assert_same(a, replace(b, targets=replace(b.targets, border=None)))


def test_each_copy_of_an_image_is_augmented_on_its_own(dataset):
    batches = epochs(dataset, 0, [0], factors=np.full(12, 3.0))[0]
    seen: dict[str, list[bytes]] = {}
    for batch in batches:
        for name, image in zip(batch.ids, batch.images, strict=True):
            seen.setdefault(name, []).append(image.numpy().tobytes())
    assert {len(images) for images in seen.values()} == {3}
    assert all(len(set(images)) == 3 for images in seen.values())


def test_a_resumed_run_sees_what_an_undisturbed_one_sees(dataset):
    through, resumed = epochs(dataset, 0, [0, 1, 2]), epochs(dataset, 0, [2])
    for a, b in zip(through[2], resumed[0], strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_shard_is_said_in_its_own_words(dataset, tmp_path, workers):
    """From a loader's worker too, where torch would make the traceback the text."""
    shutil.copytree(dataset, tmp_path / "data")
    shard = tmp_path / "data" / "shards" / "train-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError) as caught:
        epochs(tmp_path / "data", workers, [0])
    assert str(caught.value) == f"sha256 mismatch: shard {shard} is not what ingest wrote\ndo: dvc repro --force ingest"


def test_crops_are_padded_to_the_stride(dataset):
    batch = epochs(dataset, 0, [0])[0][0]
    assert batch.images.shape == (4, 3, 64, 64)
    assert (batch.targets.semantic[:, 48:] == 255).all()


def test_an_image_is_decoded_as_rgb(dataset):
    record = ShardReader(dataset, "train")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    encoded = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode(replace(record, image=encoded)), pixels)


def test_raw_pixels_are_seen_in_place(dataset):
    record = ShardReader(dataset, "train")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    kept = memoryview(pixels.tobytes())
    found = decode(replace(record, image=kept, format="raw"))
    np.testing.assert_array_equal(found, pixels)
    assert np.shares_memory(found, np.frombuffer(kept, np.uint8))


@pytest.mark.parametrize("damage", ["truncated", "another size"])
def test_an_image_that_cannot_be_decoded_is_named(dataset, damage):
    record = ShardReader(dataset, "train")[0]
    other = cv2.imencode(".png", np.zeros((32, 64, 3), np.uint8))[1].tobytes()
    image = {"truncated": record.image[:40], "another size": other}[damage]
    with pytest.raises(DataError, match=f"{record.id}: its image in the shard cannot be decoded"):
        decode(replace(record, image=image))
