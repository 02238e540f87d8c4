"""Pixels to what a network sees, and back."""

import numpy as np
import torch

from pipelines.pixels import Pixels


def image(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, 16, 24), np.uint8))


def test_normalisation_is_its_formula():
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    pixels = Pixels.of(mean, std)
    given_images = torch.stack([image(0), image(1)])
    want = (given_images.double() / 255 - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    found = pixels.normalise(given_images)
    assert found.is_contiguous(memory_format=torch.channels_last)
    kept = given_images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels.normalise(kept), found), "the order in memory changes a value"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), want.double(), atol=1e-5, rtol=0)


def test_every_byte_comes_back():
    pixels = Pixels.of((0.41, 0.5, 0.0), (0.123, 0.3, 0.0))
    values = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    restored = pixels.restore(pixels.normalise(values))
    assert torch.equal(restored.round().to(torch.uint8), values)
    torch.testing.assert_close(restored, values.float(), atol=1e-3, rtol=0)
