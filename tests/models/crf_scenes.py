"""Scenes for the tests of the fully connected CRF, and the Gaussian over all pairs of pixels in float64."""

import numpy as np
import torch
from scipy.spatial.distance import cdist

# What params.yaml gives a CRF behind a network, but for the iterations.
TRAINED = {"spatial_weight": 3.0, "spatial_sigma": 3.0, "bilateral_weight": 5.0, "bilateral_sigma": 50.0,
           "color_sigma": 13.0}  # fmt: skip


def gaussian(at: np.ndarray) -> np.ndarray:
    """float64[n, d] -> [n, n]"""
    return np.exp(-0.5 * cdist(at, at, "sqeuclidean"))


def features(image: torch.Tensor, position_sigma: float, color_sigma: float) -> np.ndarray:
    places = np.stack(np.meshgrid(*map(np.arange, image.shape[-2:]), indexing="ij"), axis=-1).reshape(-1, 2)
    colors = image.numpy().astype(np.float64).reshape(len(image), -1).T
    return np.concatenate([places / position_sigma, colors / color_sigma], axis=1)


def softmax(x: np.ndarray) -> np.ndarray:
    exp = np.exp(x - x.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def scene(height: int, width: int, noise: float, seed: int = 0, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """An image uint8[3, h, w] of shaded discs on a shaded ground, with noise; and probabilities of what is where."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / max(height, width)
    labels = np.zeros((height, width), int)
    for label in range(1, classes):
        labels[np.hypot(y - rng.uniform(0, 0.75), x - rng.uniform()) < rng.uniform(0.15, 0.35)] = label
    image = (
        rng.uniform(30, 220, (classes, 3))[labels] + 60 * (x * rng.uniform(-1, 1) + y * rng.uniform(-1, 1))[..., None]
    )
    image = np.clip(image + noise * rng.standard_normal(image.shape), 0, 255).astype(np.uint8)
    logits = 2.0 * np.eye(classes)[labels] + 1.2 * rng.standard_normal((height, width, classes))
    probabilities = torch.from_numpy(softmax(logits.reshape(-1, classes)).reshape(logits.shape)).float()
    return torch.from_numpy(image).permute(2, 0, 1).contiguous(), probabilities.permute(2, 0, 1).contiguous()
