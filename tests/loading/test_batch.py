"""Samples to batches: padding that changes nothing inside."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.loading.batch import pad_images

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
