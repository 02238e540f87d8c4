"""The order of samples: a function of (seed, epoch), cut into global batches of which each worker takes its share."""

from collections.abc import Iterator

import numpy as np

from pipelines.errors import DataError
from pipelines.loading.permutation import Permutation
from pipelines.loading.repeats import Repeats

AHEAD = 1 << 13  # samples whose places are worked out at once


class GlobalBatches:
    """Lists of (epoch, index) for one worker; 1, 2 or 8 workers together see the same global batches.

    A batch is seen in `passes` parts of one size, which are the same however many workers share them; each worker has
    every `world`-th of them, in order.

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
        passes: int | None = None,
        factors: np.ndarray | None = None,
    ):
        self.passes = world if passes is None else passes
        if batch_size % self.passes or self.passes % world:
            raise ValueError(
                f"a global batch of {batch_size} cannot be seen in {self.passes} passes that {world} workers share"
            )
        if not samples:
            raise DataError("the training split has no images", do="set dataset.splits so that it has some")
        self.samples, self.batch_size, self.seed, self.rank, self.world = samples, batch_size, seed, rank, world
        self.repeats = None if factors is None else Repeats(factors, seed=seed)
        self.epoch = 0

    @property
    def share(self) -> int:
        """Samples of one pass."""
        return self.batch_size // self.passes

    def __len__(self) -> int:
        """Global batches of an epoch."""
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
            parts = np.arange(self.rank, self.passes, self.world)[:, None] + np.arange(0, self.batch_size, self.passes)
            places = (numbers[:, None, None] * self.batch_size + parts).reshape(-1, self.share)
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
