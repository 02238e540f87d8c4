"""The order of samples: a function of (seed, epoch), cut into global batches of which each worker takes its share."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from pipelines.errors import DataError


class GlobalBatches(Sampler[list[tuple[int, int]]]):
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
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        order = np.resize(order, len(self) * self.batch_size)
        for batch in order.reshape(len(self), self.batch_size):
            yield [(self.epoch, int(i)) for i in batch[self.rank :: self.world]]
