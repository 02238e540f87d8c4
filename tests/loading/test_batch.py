"""Samples to batches: padding that changes nothing inside."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.schema import IGNORE
from pipelines.loading.batch import Sample, collate, normalise, pad_images
from pipelines.targets import InstanceTargets

SIZES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4)


def image(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, *size), np.uint8))


@given(SIZES, st.sampled_from([1, 4, 32]))
def test_padding_is_the_least_that_fits_all_and_repeats_the_border(sizes, stride):
    images = [image(size, i) for i, size in enumerate(sizes)]
    batch, found = pad_images(images, stride)
    assert found == sizes
    assert batch.dtype == torch.uint8
    for side, given_side in zip(batch.shape[-2:], zip(*sizes, strict=True), strict=True):
        assert side % stride == 0
        assert 0 <= side - max(given_side) < stride
    for i, (height, width) in enumerate(sizes):
        whole = np.pad(
            images[i].numpy(), ((0, 0), (0, batch.shape[-2] - height), (0, batch.shape[-1] - width)), mode="edge"
        )
        np.testing.assert_array_equal(batch[i].numpy(), whole)


def test_every_value_of_a_byte_survives_the_padding():
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    batch, _ = pad_images([values], 32)
    assert torch.equal(batch[0, :, :16, :16], values)


def sample(size: tuple[int, int], masks: int) -> Sample:
    height, width = size
    boxes = torch.tensor([[0, 0, i + 1, 1] for i in range(masks)], dtype=torch.float32).reshape(-1, 4)
    return Sample(
        id=f"{height}x{width}",
        image=image(size),
        semantic=torch.ones(size, dtype=torch.uint8),
        instances=InstanceTargets(
            masks=torch.ones(masks, height, width, dtype=torch.bool),
            labels=torch.arange(masks),
            boxes=boxes,
            iscrowd=torch.zeros(masks, dtype=torch.bool),
        ),
    )


def test_what_is_padded_is_ignored_and_in_no_instance():
    batch = collate([sample((20, 32), 2), sample((32, 30), 0)], stride=16)
    assert batch.ids == ["20x32", "32x30"]
    assert batch.images.shape == (2, 3, 32, 32)
    assert (batch.targets.semantic.shape, batch.targets.semantic.dtype) == ((2, 32, 32), torch.int64)
    wide, tall = batch.targets.semantic
    assert (wide[:20] == 1).all()
    assert (wide[20:] == IGNORE).all()
    assert (tall[:, :30] == 1).all()
    assert (tall[:, 30:] == IGNORE).all()
    two, none = batch.targets.instances
    assert two.masks.shape == (2, 32, 32)
    assert two.masks[:, :20].all()
    assert not two.masks[:, 20:].any()
    assert two.boxes.tolist() == [[0, 0, 1, 1], [0, 0, 2, 1]]
    assert none.masks.shape == (0, 32, 32)


def test_normalisation_is_its_formula():
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    given_images = image((16, 16)).unsqueeze(0)
    want = (given_images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    found = normalise(given_images, mean, std)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want.double(), atol=1e-5, rtol=0)
