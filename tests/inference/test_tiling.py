"""Windows over an image, against the whole image."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.tiling import blending, mirrored, starts, windows

LENGTHS = st.integers(1, 200)


@given(LENGTHS, st.integers(1, 200), st.floats(0, 0.9), st.sampled_from([1, 8, 32]))
def test_windows_cover_all_and_begin_where_the_network_s_grid_does(length, window, overlap, stride):
    window = min(window, length)
    found = starts(length, window, overlap, stride)
    assert found == sorted(set(found)) or length == window
    assert found[0] == 0
    assert found[-1] == length - window
    assert all(after - before <= window for before, after in pairwise(found)), "no gap"
    if stride <= window * (1 - overlap):
        assert all(start % stride == 0 for start in found[:-1])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30))
def test_the_border_is_mirrored_as_often_as_it_takes(height, width, margin):
    image = np.random.default_rng(0).random((1, 2, height, width)).astype(np.float32)
    wanted = np.pad(image, ((0, 0), (0, 0), (margin, margin), (margin, margin)), mode="reflect")
    np.testing.assert_array_equal(mirrored(torch.from_numpy(image), margin).numpy(), wanted)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("tile", [(16, 24), (7, 11), (100, 100)])
def test_an_answer_of_each_pixel_alone_is_the_whole_image_s(tile, overlap):
    images = torch.rand(2, 3, 45, 61)
    found = windows(lambda x: x.softmax(dim=1), images, tile=tile, overlap=overlap, context=0, stride=1)
    torch.testing.assert_close(found, images.softmax(dim=1))


def test_with_enough_context_the_tiles_are_the_whole():
    """Of a network that sees 6 pixels around each, on a grid of 4: what the overlap-tile strategy is for."""
    kernel = torch.rand(3, 3, 5, 5, generator=torch.Generator().manual_seed(0))

    def ask(x: torch.Tensor) -> torch.Tensor:
        pooled = F.avg_pool2d(F.conv2d(x, kernel, padding=2), 4)
        return F.interpolate(pooled, scale_factor=4.0, mode="nearest")

    images = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    tiled = windows(ask, images, tile=(16, 32), overlap=0.0, context=8, stride=4)
    whole = ask(mirrored(images, 8))[..., 8:-8, 8:-8]
    torch.testing.assert_close(tiled, whole)
    without = windows(ask, images, tile=(16, 32), overlap=0.0, context=0, stride=4)
    assert (without - whole).abs().max() > 0.1, "without it there are seams"


def test_the_blending_is_smooth_symmetric_and_nowhere_0():
    fade = blending((40, 60), 0.25)
    assert fade.min() > 0
    assert fade.max() == 1
    assert torch.equal(fade, fade.flip(0))
    assert torch.equal(fade, fade.flip(1))
    assert fade.diff(dim=1).abs().max() <= 1 / 15 + 1e-6
    assert torch.equal(blending((8, 8), 0.0), torch.ones(8, 8))
