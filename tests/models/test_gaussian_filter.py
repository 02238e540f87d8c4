"""The filters of the fully connected CRF against sums in float64 over all pairs of pixels."""

import numpy as np
import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.models.crf import mean_field
from pipelines.models.gaussian_filter import Exact, Factored, bilateral
from pipelines.models.permutohedral import Lattice, simplices
from tests.models.crf_scenes import features, gaussian, scene


@pytest.mark.parametrize(
    ("channels", "exact_below", "kind", "tolerance"),
    [(3, 4096, Exact, 1e-5), (3, 0, Factored, 0.02), (1, 0, Factored, 0.02), (4, 0, Lattice, 0.25)],
)
class TestEveryFilter:
    def test_it_sums_over_all_pairs(self, channels, exact_below, kind, tolerance):
        """Means, not sums: what a CRF takes of them."""
        image, values = scene(32, 40, 4.0)
        image = image.repeat(2, 1, 1)[:channels]
        apply = bilateral(image.float(), position_sigma=20.0, color_sigma=20.0, exact_below=exact_below)
        assert type(apply) is kind
        between = gaussian(features(image, 20.0, 20.0))
        rows = values.flatten(1).T.contiguous()
        found = apply(rows) / apply(torch.ones(len(rows), 1))
        wanted = between @ rows.numpy() / between.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found.numpy(), wanted, atol=tolerance)
        assert np.abs(found.numpy() - wanted).mean() < tolerance / 10

    def test_transposed_is_its_transpose(self, channels, exact_below, kind, tolerance):
        image = 80 * torch.rand(channels, 12, 15, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        apply = bilateral(image, position_sigma=9.0, color_sigma=30.0, exact_below=exact_below)
        assert type(apply) is kind
        eye = torch.eye(180, dtype=torch.float64)
        torch.testing.assert_close(apply(eye).T, apply(eye, transposed=True))
        if kind is not Lattice:
            torch.testing.assert_close(apply(eye), apply(eye).T)

    def test_channels_do_not_mix(self, channels, exact_below, kind, tolerance):
        image = scene(16, 20, 4.0)[0].float().repeat(2, 1, 1)[:channels]
        apply = bilateral(image, position_sigma=9.0, color_sigma=20.0, exact_below=exact_below)
        assert type(apply) is kind
        values = torch.rand(320, 37, generator=torch.Generator().manual_seed(0))
        alone = torch.cat([apply(values[:, i : i + 1]) for i in range(37)], dim=1)
        torch.testing.assert_close(apply(values), alone)

    def test_gradients_are_those_of_finite_differences(self, channels, exact_below, kind, tolerance):
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, dtype=torch.float64, generator=generator)

        images = 60 * random(2, channels, 5, 4)
        assert type(bilateral(images[0], position_sigma=4.0, color_sigma=40.0, exact_below=exact_below)) is kind
        inputs = [4 * random(2, 3, 5, 4), random(2, 3), random(3, 3)]
        assert torch.autograd.gradcheck(
            lambda logits, weights, pairs: mean_field(logits, images, weights, pairs, 3, [1.0, 4.0, 40.0], exact_below),
            [given.requires_grad_() for given in inputs],
            fast_mode=True,
        )


def test_a_narrow_gaussian_on_an_image_of_many_colours_takes_the_lattice():
    image = 255 * torch.rand(3, 72, 72, generator=torch.Generator().manual_seed(0))
    assert type(bilateral(image, position_sigma=3.0, color_sigma=3.0)) is Lattice


def test_deviations_too_small_for_the_lattice_are_refused():
    image = 255 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ConfigError, match=r"deviations this small.*\n.*raise crf\.color_sigma"):
        bilateral(image, position_sigma=0.001, color_sigma=0.01, exact_below=0)


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_a_point_is_the_mean_of_the_corners_around_it(dimensions):
    points = 20 * torch.randn(500, dimensions, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    corners, weights = simplices(points)
    assert (weights >= -1e-12).all()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(500, dtype=torch.float64))
    assert (corners.sum(dim=-1) == 0).all()
    assert (corners % (dimensions + 1) == torch.arange(dimensions + 1)[:, None]).all()
    # Distances are kept, up to the lattice's scale.
    at = (weights.unsqueeze(2) * corners).sum(dim=1) / ((dimensions + 1) * (2 / 3) ** 0.5)
    torch.testing.assert_close(torch.pdist(at), torch.pdist(points))
