"""How rare each class is in the training split, and the weights and repeat factors that follow: computed once, here,
for training to choose from.

An image shows a class when its semantic map has a pixel of it: the `pixels` column of its row says which, without
decoding, and so which repeat factor the image has, the largest of its classes'. Ignored pixels count nowhere. A class
that no training image shows has the frequencies and weights 0 and the repeat factor 1: it weighs nothing, repeats
nothing, and is never infinite.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.schema import ClassInfo


class Tally:
    """What the training images show. Keeps a bit per image and class."""

    def __init__(self, classes: int):
        self.classes = classes
        self.pixels = np.zeros(classes, np.int64)
        self.around = np.zeros(classes, np.int64)  # labelled pixels of the images that show the class
        self._shown: list[np.ndarray] = []

    def add(self, counts: np.ndarray) -> None:
        """One image's int64[256]."""
        known = counts[: self.classes]
        self.pixels += known
        self.around += np.where(known > 0, known.sum(), 0)
        self._shown.append(np.packbits(known > 0))

    @property
    def shown(self) -> np.ndarray:
        """bool[images, classes]"""
        if not self._shown:
            return np.zeros((0, self.classes), bool)
        return np.unpackbits(np.stack(self._shown), axis=1, count=self.classes).astype(bool)


def inverse_frequency(pixels: np.ndarray) -> np.ndarray:
    """1 / frequency, scaled so that the mean weight of a labelled pixel is 1."""
    weights: np.ndarray = pixels.sum() * _inverse(np.count_nonzero(pixels) * pixels)
    return weights


def median_frequency(pixels: np.ndarray, around: np.ndarray) -> np.ndarray:
    """median(frequency) / frequency, where a class's frequency is among the pixels of the images that show it (Eigen
    and Fergus, https://arxiv.org/abs/1411.4734)."""
    frequency = pixels * _inverse(around)
    seen = frequency[frequency > 0]
    weights: np.ndarray = (np.median(seen) if seen.size else 0.0) * _inverse(frequency)
    return weights


def effective_number(images: np.ndarray, beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n), scaled to a mean of 1 over the classes that are seen (Cui et al.,
    https://arxiv.org/abs/1901.05555). n counts images: the pixels of one image say much the same, and by pixels every
    class would be at the limit."""
    weights: np.ndarray = _inverse(-np.expm1(images * np.log(beta)))  # the factor 1 - beta is lost in the scale
    weights *= np.count_nonzero(images) / max(weights.sum(), 1.0)
    return weights


def repeat_factors(images: np.ndarray, total: int, threshold: float) -> np.ndarray:
    """max(1, sqrt(threshold / frequency)), where a class's frequency is among the images (Gupta et al., LVIS,
    https://arxiv.org/abs/1908.03195)."""
    factors: np.ndarray = np.maximum(1.0, np.sqrt(threshold * total * _inverse(images)))
    return factors


def images_by_factor(shown: np.ndarray, factors: np.ndarray) -> list[tuple[float, int]]:
    """bool[images, classes] -> (factor, images that have it), ascending. An image's factor is the largest of its
    classes', so there are no more than there are classes, and 1 for images that show none."""
    order = np.argsort(-factors, kind="stable")
    ranked = np.concatenate([factors[order], [1.0]])
    nothing = ~shown.any(axis=1)
    which = np.where(nothing, len(order), shown[:, order].argmax(axis=1) if len(order) else 0)
    values, at = np.unique(ranked[which], return_counts=True)
    return list(zip(values.tolist(), at.tolist(), strict=True))


def summarize(
    tally: Tally, classes: Sequence[ClassInfo], *, dataset: str, repeat_threshold: float, effective_beta: float
) -> dict[str, Any]:
    """balance.json: the same bytes for the same dataset and parameters."""
    shown = tally.shown
    total, images, pixels = len(shown), shown.sum(axis=0), tally.pixels
    weights = {
        "inverse_frequency": inverse_frequency(pixels),
        "median_frequency": median_frequency(pixels, tally.around),
        "effective_number": effective_number(images, effective_beta),
    }
    factors = repeat_factors(images, total, repeat_threshold)
    repeats = images_by_factor(shown, factors)
    return {
        "dataset": dataset,
        "split": "train",
        "images": total,
        "labelled_pixels": int(pixels.sum()),
        "effective_beta": effective_beta,
        "repeat_threshold": repeat_threshold,
        "classes": [
            {
                "name": info.name,
                "pixels": int(pixels[k]),
                "images": int(images[k]),
                "pixel_frequency": float(pixels[k] / max(pixels.sum(), 1)),
                "image_frequency": float(images[k] / max(total, 1)),
                "weights": {name: float(values[k]) for name, values in weights.items()},
                "repeat_factor": float(factors[k]),
            }
            for k, info in enumerate(classes)
        ],
        "repeats": {  # of an image: the largest factor of its classes, 1 where it shows none
            "images_by_factor": [{"factor": factor, "images": n} for factor, n in repeats],
            "images_per_epoch": float(sum(factor * n for factor, n in repeats)),  # expected
        },
    }


def _inverse(values: np.ndarray) -> np.ndarray:
    """1 / value, and 0 for 0."""
    inverse: np.ndarray = np.divide(1.0, values, out=np.zeros(np.shape(values)), where=values > 0)
    return inverse
