"""The order of samples: a function of (seed, epoch), cut into global batches of which each worker takes its share."""

from collections.abc import Iterator

import numpy as np

from pipelines.errors import DataError
from pipelines.loading.permutation import Permutation
from pipelines.loading.repeats import Repeats

AHEAD = 1 << 13  # samples whose places are worked out at once


class GlobalBatches:
    """Batches of (epoch, index) for one worker; 1, 2 or 8 workers together see the same global batches.

    The last, incomplete batch of an epoch is left out (another one each epoch, since the order changes); a dataset
    smaller than one batch is repeated to fill it.

    With `factors`, float64[samples], an image comes as often as its factor says, by chance where that is not a whole
    number. The index of each further copy is higher by `samples`: another sample of the same image.
    """

    def __init__(
        self,
        samples: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        factors: np.ndarray | None = None,
    ):
        if batch_size % world:
            raise ValueError(f"a global batch of {batch_size} cannot be shared by {world} workers")
        if not samples:
            raise DataError("the training split has no images", do="set dataset.splits so that it has some")
        self.samples, self.batch_size, self.seed, self.rank, self.world = samples, batch_size, seed, rank, world
        self.repeats = None if factors is None else Repeats(factors, seed=seed)
        self.epoch = 0

    def __len__(self) -> int:
        images = self.samples if self.repeats is None else self.repeats.expected
        return max(1, images // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.starting(0)

    def starting(self, batch: int) -> Iterator[list[tuple[int, int]]]:
        """The epoch from its batch number `batch` on, which costs nothing for those before."""
        epoch, ends = self.epoch, None if self.repeats is None else self.repeats.ends(self.epoch)
        permutation = Permutation(self.samples if ends is None else int(ends[-1]), [self.seed, self.epoch])
        at_once = max(1, AHEAD * self.world // self.batch_size)
        for first in range(batch, len(self), at_once):
            numbers = np.arange(first, min(first + at_once, len(self)))
            places = numbers[:, None] * self.batch_size + np.arange(self.rank, self.batch_size, self.world)
            drawn = permutation(places.ravel() % permutation.samples)
            indices = drawn if ends is None else self._copies(drawn, ends)
            for row in indices.reshape(places.shape).tolist():
                yield [(epoch, index) for index in row]

    def _copies(self, places: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Places in the unshuffled epoch, where each image has its copies side by side up to `ends` -> indices."""
        images = np.searchsorted(ends, places, side="right")
        copies = places - np.where(images > 0, ends[images - 1], 0)
        indices: np.ndarray = images + copies * self.samples
        return indices
