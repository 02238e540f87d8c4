"""The fully connected CRF against mean field in float64 over all pairs of pixels."""

from typing import Any

import numpy as np
import pytest
import torch

from pipelines.models.crf import mean_field, potts, refine
from tests.models.crf_scenes import TRAINED, features, gaussian, scene, softmax

AFTERWARDS = {**TRAINED, "bilateral_weight": 4.0, "bilateral_sigma": 49.0, "color_sigma": 5.0}
NARROW = {"spatial_weight": 1.0, "spatial_sigma": 1.5, "bilateral_weight": 8.0, "bilateral_sigma": 6.0,
          "color_sigma": 30.0}  # fmt: skip
SIGMAS = [pytest.param(TRAINED, id="trained"), pytest.param(AFTERWARDS, id="afterwards"),
          pytest.param(NARROW, id="narrow")]  # fmt: skip


def normalised(between: np.ndarray) -> np.ndarray:
    sums = between.sum(axis=1)
    return between / np.sqrt(sums[:, None] * sums)


def brute_force(probabilities: torch.Tensor, image: torch.Tensor, iterations: int, options: dict[str, float]) -> Any:
    """[c, h, w] and [3, h, w] -> float64[c, h, w]: every pixel listens to every pixel."""
    at = features(image, options["bilateral_sigma"], options["color_sigma"])
    near = normalised(gaussian(at[:, :2] * options["bilateral_sigma"] / options["spatial_sigma"]))
    heard = options["spatial_weight"] * near + options["bilateral_weight"] * normalised(gaussian(at))
    unary = np.log(probabilities.numpy().astype(np.float64).reshape(len(probabilities), -1).T)
    q = softmax(unary)
    for _ in range(iterations):
        q = softmax(unary + heard @ q)
    return q.T.reshape(probabilities.shape)


@pytest.mark.parametrize("options", SIGMAS)
@pytest.mark.parametrize("noise", [0.0, 6.0, 40.0])
def test_marginals_of_small_images_are_those_of_brute_force(noise, options):
    scenes = [scene(24, 32, noise, seed) for seed in (0, 1)]
    images, probabilities = (torch.stack(parts) for parts in zip(*scenes, strict=True))
    found = refine(probabilities, images, iterations=10, **options)
    assert found.dtype == torch.float32
    for got, (image, given) in zip(found, scenes, strict=True):
        np.testing.assert_allclose(got.numpy(), brute_force(given, image, 10, options), atol=1e-4)


@pytest.mark.parametrize("options", SIGMAS)
def test_marginals_of_larger_images_are_close(options):
    """As far as an approximation can promise: where two classes are even, a small error may decide."""
    image, given = scene(48, 64, 6.0)
    found = refine(given[None], image[None], iterations=10, exact_below=0, **options)[0].numpy()
    wanted = brute_force(given, image, 10, options)
    assert np.abs(found - wanted).mean() < 1e-3
    assert (found.argmax(axis=0) == wanted.argmax(axis=0)).mean() > 0.995


def test_torch_finds_the_operator_sound():
    image, given = scene(6, 7, 4.0)
    weights = torch.ones(2, 5, requires_grad=True)
    inputs = (given[None].log().requires_grad_(), image[None].float(), weights, potts(5).requires_grad_())
    torch.library.opcheck(mean_field, (*inputs, 2, [1.0, 4.0, 20.0], 0))


@pytest.mark.parametrize("exact_below", [4096, 0])
def test_an_edge_in_colour_is_found_again(exact_below):
    labels = torch.zeros(40, 48, dtype=torch.int64)
    labels[:, 23:] = 1
    labels[12:30, 8:20] = 2
    image = torch.tensor([[200, 60, 50], [40, 90, 180], [60, 160, 70]])[labels].permute(2, 0, 1)
    logits = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1).float()
    logits += 1.5 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    given = logits.softmax(dim=0)
    found = refine(given[None], image[None].to(torch.uint8), iterations=10, exact_below=exact_below, **TRAINED)[0]
    assert (given.argmax(dim=0) == labels).float().mean() < 0.8
    assert (found.argmax(dim=0) == labels).float().mean() > 0.995


def test_no_iteration_changes_nothing():
    image, given = scene(16, 20, 4.0)
    torch.testing.assert_close(refine(given[None], image[None], iterations=0, **TRAINED)[0], given)


def test_certain_probabilities_stay_finite():
    image, given = scene(16, 20, 4.0)
    certain = torch.nn.functional.one_hot(given.argmax(dim=0), 5).permute(2, 0, 1).bfloat16()
    found = refine(certain[None], image[None], iterations=3, **TRAINED)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(1, 16, 20))
