"""Samples to batches: padding that changes nothing inside."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.loading.batch import normalise, pad_images

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


def test_normalisation_is_its_formula():
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    given_images = torch.stack([image((16, 24)), image((16, 24), seed=1)])
    want = (given_images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    found = normalise(given_images, mean, std)
    assert found.is_contiguous(memory_format=torch.channels_last)
    kept = given_images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(normalise(kept, mean, std), found), "the order in memory changes a value"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want.double(), atol=1e-5, rtol=0)
