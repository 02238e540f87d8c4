"""Repeat-factor sampling (Gupta et al. 2019, LVIS, arXiv 1908.03195): images that show rare classes come more often.

An image of factor 2.3 comes twice in an epoch, and in three of ten epochs, drawn by chance, three times. That is the
paper's rounding of each image's factor; other than there the images' draws are tied to each other, so that the length
of an epoch does not depend on chance, and the number of its batches, and with it the learning rate's schedule, is
known before.
"""

from collections.abc import Sequence

import numpy as np

from pipelines.data.shards import ShardReader

ONE = 1 << 20  # factors are whole numbers of this part: sums of theirs are exact, in whatever order


def image_factors(reader: ShardReader, class_factors: Sequence[float]) -> np.ndarray:
    """float64[images]: the largest factor of the classes that each shows, 1 where it shows none. No image is decoded:
    the shards say how many pixels of each class it has."""
    pixels = reader.table("pixels").column("pixels").combine_chunks()
    factors = np.ones(256)
    factors[: len(class_factors)] = class_factors
    largest = np.ones(len(pixels))
    ends = pixels.offsets.to_numpy()
    image = np.repeat(np.arange(len(pixels)), np.diff(ends))
    shown = pixels.values.field("value").to_numpy()[ends[0] : ends[-1]]
    np.maximum.at(largest, image, factors[shown])
    return largest


class Repeats:
    """How often each image comes in an epoch: a function of (seed, epoch) alone."""

    def __init__(self, factors: np.ndarray, *, seed: int):
        """float64[images], of 1 or more."""
        if not (factors >= 1).all():
            raise ValueError(f"a repeat factor is 1 or more, got {factors.min()}")
        self.parts, self.seed = np.rint(factors * ONE).astype(np.int64), seed
        self.expected = int(self.parts.sum()) // ONE  # images in an epoch, and in some epochs one more

    def ends(self, epoch: int) -> np.ndarray:
        """int64[images]: where in the epoch, still unshuffled, each image's copies end."""
        random = np.random.default_rng(np.random.SeedSequence([self.seed, epoch], spawn_key=(1,)))
        # The images' factors laid end to end, and one mark on every whole number from a random start: those on whose
        # part a mark falls come. In another order each epoch, since neighbours hardly ever come together.
        order = random.permutation(len(self.parts))
        marks = (np.cumsum(self.parts[order]) + random.integers(ONE)) // ONE
        copies = np.empty_like(self.parts)
        copies[order] = np.diff(marks, prepend=0)
        ends: np.ndarray = np.cumsum(copies)
        return ends
