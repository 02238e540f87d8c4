"""The order of samples: a function of (seed, epoch), cut into global batches of which each worker takes its share."""

from collections.abc import Iterator

import numpy as np

from pipelines.errors import DataError
from pipelines.loading.permutation import Permutation

AHEAD = 1 << 13  # samples whose places are worked out at once


class GlobalBatches:
    """Batches of (epoch, index) for one worker; 1, 2 or 8 workers together see the same global batches.

    The last, incomplete batch of an epoch is left out (another one each epoch, since the order changes); a dataset
    smaller than one batch is repeated to fill it.
    """

    def __init__(self, samples: int, *, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise ValueError(f"a global batch of {batch_size} cannot be shared by {world} workers")
        if not samples:
            raise DataError("the training split has no images", do="set dataset.splits so that it has some")
        self.samples, self.batch_size, self.seed, self.rank, self.world = samples, batch_size, seed, rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return max(1, self.samples // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.starting(0)

    def starting(self, batch: int) -> Iterator[list[tuple[int, int]]]:
        """The epoch from its batch number `batch` on, which costs nothing for those before."""
        epoch, permutation = self.epoch, Permutation(self.samples, [self.seed, self.epoch])
        at_once = max(1, AHEAD * self.world // self.batch_size)
        for first in range(batch, len(self), at_once):
            numbers = np.arange(first, min(first + at_once, len(self)))
            places = numbers[:, None] * self.batch_size + np.arange(self.rank, self.batch_size, self.world)
            for row in permutation(places.ravel() % self.samples).reshape(places.shape).tolist():
                yield [(epoch, index) for index in row]
