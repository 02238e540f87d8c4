"""A batch through a slot: what goes in comes out, padded to the stride, and stays when the slot is used again."""

import numpy as np
import pytest
import torch

from pipelines.data import rle
from pipelines.data.schema import IGNORE, Segment
from pipelines.loading.augment import Sample
from pipelines.loading.geometry import Axis, Window
from pipelines.loading.instances import cut
from pipelines.loading.slots import Slots

SIZE = (40, 24)


def sample(name: str, masks: np.ndarray, seed: int, border: bool = False) -> Sample:
    random = np.random.default_rng(seed)
    height, width = SIZE
    whole = Window(
        y=Axis(source=height, scaled=height, start=0, crop=height),
        x=Axis(source=width, scaled=width, start=0, crop=width),
        flip=False,
    )
    segments = [
        Segment(category=k, bbox=rle.bbox(m), area=int(m.sum()), iscrowd=k == 1, counts=rle.encode(m))
        for k, m in enumerate(masks)
    ]
    return Sample(
        id=name,
        image=random.integers(0, 256, (*SIZE, 3), np.uint8),
        semantic=random.integers(0, 9, SIZE, np.uint8),
        instances=cut(segments, whole),
        border=random.uniform(1, 11, SIZE).astype(np.float32) if border else None,
    )


@pytest.mark.parametrize("many", [3, 40])  # the masks of forty full crops do not fit, and go another way
def test_a_batch_comes_out_as_it_went_in(many):
    full = np.ones((many, *SIZE), bool)
    full[0, :, :10] = False
    samples = [sample("a", full, 0), sample("b" * 400, np.zeros((0, *SIZE), bool), 1)]
    slot = Slots(1, batch=2, height=48, width=32)[0]
    slot.indices[:] = [7, 9]
    asked = []

    def load(key: tuple[int, int]) -> Sample:
        asked.append(key)
        return samples[len(asked) - 1]

    filled = slot.fill(5, load)
    assert asked == [(5, 7), (5, 9)]
    assert (filled.overflow is not None) == (many == 40)
    batch = slot.batch(filled, pin=False)
    slot.memory[:] = 1  # the next batch comes
    assert batch.ids == ["a", "b" * 400]
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 48, 32), torch.uint8)
    assert (batch.targets.semantic.shape, batch.targets.semantic.dtype) == ((2, 48, 32), torch.int64)
    for i, s in enumerate(samples):
        replicated = np.pad(s.image, ((0, 8), (0, 8), (0, 0)), mode="edge").transpose(2, 0, 1)
        np.testing.assert_array_equal(batch.images[i].numpy(), replicated)
        ignored = np.pad(s.semantic, ((0, 8), (0, 8)), constant_values=IGNORE)
        np.testing.assert_array_equal(batch.targets.semantic[i].numpy(), ignored)
    first, second = batch.targets.instances
    np.testing.assert_array_equal(first.masks.numpy(), np.pad(full, ((0, 0), (0, 8), (0, 8))))
    assert first.labels.tolist() == list(range(many))
    assert first.iscrowd.tolist() == [k == 1 for k in range(many)]
    assert first.boxes[:2].tolist() == [[10, 0, 24, 40], [0, 0, 24, 40]]
    assert (second.masks.shape, second.boxes.shape) == ((0, 48, 32), (0, 4))


def test_slots_do_not_touch_each_other():
    many = Slots(3, batch=2, height=16, width=16)
    for value, slot in enumerate(many.slots):
        slot.memory[:] = value
    assert [set(slot.memory.tolist()) for slot in many.slots] == [{0}, {1}, {2}]
    assert all(len(slot.room) >= slot.semantic.size for slot in many.slots)


def test_a_border_comes_along_where_there_is_room_for_it():
    samples = [sample(str(i), np.zeros((0, *SIZE), bool), i, border=True) for i in range(3)]
    plain, bordered = (Slots(2, batch=3, height=48, width=32, border=border)[1] for border in (False, True))
    found = []
    for slot in (plain, bordered):
        slot.indices[:] = range(3)
        found.append(slot.batch(slot.fill(0, lambda key: samples[key[1]]), pin=False).targets)
        slot.memory[:] = 1
    assert found[0].border is None
    assert torch.equal(found[0].semantic, found[1].semantic)
    assert (found[1].border.shape, found[1].border.dtype) == ((3, 48, 32), torch.float32)
    for i, s in enumerate(samples):
        padded = np.pad(s.border, ((0, 8), (0, 8)), constant_values=1)
        np.testing.assert_array_equal(found[1].border[i].numpy(), padded)
