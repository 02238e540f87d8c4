"""Confidence intervals by resampling images with replacement (Efron and Tibshirani 1993, the percentile method).

A score here is a function of sums over images: pixels by class, matches by class. A resample then needs no image again,
only how often each was drawn, and all resamples together are one matrix product. (AP is no such function, and has a
file of its own: `resampled_ap`.)

The draws depend on the seed and the number of images alone, so replicates of two models on the same images belong
together: their differences are those of a paired bootstrap.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

LEVEL = 0.95
DRAWS = 1 << 21  # at a time: bounds the memory to some 50 MB

Scores = Callable[[np.ndarray], Mapping[str, np.ndarray]]


def replicates(images: np.ndarray, scores: Scores, *, resamples: int, seed: int) -> dict[str, np.ndarray]:
    """The scores of `resamples` datasets, each drawn from the images with replacement.

    `images` are the images' own sums [n, ...]; `scores` makes of sums [r, ...] its scores [r] or [r, ...].
    """
    flat = images.reshape(len(images), -1).astype(np.float64)
    sums = (counts @ flat for counts in draws(len(images), resamples, seed, most=max(DRAWS // len(images), 1)))
    blocks = [scores(block.reshape(-1, *images.shape[1:])) for block in sums]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(replicate: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """[r, ...] -> [..., 2]: low and high, over the resamples where the score is defined; NaN where none has it."""
    flat = replicate.reshape(len(replicate), -1)
    found = np.full((2, flat.shape[1]), np.nan)
    defined = ~np.isnan(flat).all(axis=0)
    found[:, defined] = np.nanquantile(flat[:, defined], [(1 - level) / 2, (1 + level) / 2], axis=0)
    return found.T.reshape(*replicate.shape[1:], 2)


def draws(n: int, resamples: int, seed: int, *, most: int) -> Iterator[np.ndarray]:
    """float64[some, n]: how often each of n images is in each of some resamples, at most `most` at a time."""
    random = np.random.default_rng(seed)
    for done in range(0, resamples, most):
        drawn = random.integers(n, size=(min(most, resamples - done), n))
        drawn += np.arange(len(drawn))[:, None] * n
        yield np.bincount(drawn.reshape(-1), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)
