"""Shards -> batches."""

from collections import deque
from collections.abc import Iterator

import torch

from pipelines.data.shards import ShardReader
from pipelines.errors import MasklineError
from pipelines.loading.augment import Augment, Sample
from pipelines.loading.batch import Batch, decode
from pipelines.loading.sampler import GlobalBatches
from pipelines.loading.slots import Filled, Slots
from pipelines.loading.workers import Workers

WORKER_TIMEOUT = 300.0  # seconds without a sample after which a hung worker ends the run
AHEAD = 2  # batches per worker that may be under way or done before their turn


class TrainingSamples:
    """Augmented samples by (epoch, index). An index beyond the images is a further sample of one of them."""

    def __init__(self, reader: ShardReader, augment: Augment, seed: int):
        self.reader, self.augment, self.seed = reader, augment, seed

    def __call__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        record = self.reader[index % len(self.reader)]
        return self.augment(record, decode(record), (self.seed, epoch, index))


class TrainingLoader:
    """The passes of one epoch, each time it is iterated over: in the order of `batches`, whoever makes them.

    Workers start with the first epoch, and stay until `close` or the end of the object.
    """

    def __init__(self, samples: TrainingSamples, batches: GlobalBatches, *, stride: int, workers: int, seconds: float):
        self.samples, self.batches, self.workers, self.seconds = samples, batches, workers, seconds
        height, width = (-(-side // stride) * stride for side in samples.augment.crop)
        border = samples.augment.border is not None
        self.slots = Slots(max(1, AHEAD * workers), batch=batches.share, height=height, width=width, border=border)
        self.pin = torch.cuda.is_available()
        self._processes: Workers | None = None
        self._given: deque[tuple[int, int]] = deque()  # (number, slot) of what workers have, in order
        self._number = self._turn = 0

    def __iter__(self) -> Iterator[Batch]:
        return self.starting(0)

    def starting(self, batch: int) -> Iterator[Batch]:
        """The epoch from its global batch number `batch` on; those before are not loaded."""
        keys = self.batches.starting(batch)
        return self._from_workers(keys) if self.workers else self._from_here(keys)

    def close(self) -> None:
        if self._processes is not None:
            self._processes.close()
        self._processes = None
        self._given.clear()

    def _from_here(self, keys: Iterator[list[tuple[int, int]]]) -> Iterator[Batch]:
        slot = self.slots[0]
        for part in keys:
            slot.indices[:] = [index for _, index in part]
            yield slot.batch(slot.fill(part[0][0], self.samples), pin=self.pin)

    def _from_workers(self, keys: Iterator[list[tuple[int, int]]]) -> Iterator[Batch]:
        if self._processes is None:
            self._processes = Workers(
                self.samples, self.slots, images=self.batches.samples, count=self.workers, seconds=self.seconds
            )
        while self._given:  # an epoch that was left early
            self._processes.take(self._given.popleft()[0])
        self._turn += 1
        turn = self._turn
        free = list(range(self.slots.count))
        self._give(keys, free)
        while self._given:
            number, slot = self._given.popleft()
            batch = self.slots[slot].batch(self._taken(number), pin=self.pin)
            free.append(slot)
            self._give(keys, free)
            yield batch
            if turn != self._turn:
                raise RuntimeError("this epoch was left for another one, which has its batches")

    def _give(self, keys: Iterator[list[tuple[int, int]]], free: list[int]) -> None:
        assert self._processes is not None  # noqa: S101 - only while they work
        while free and (batch := next(keys, None)) is not None:
            slot = free.pop()
            self._processes.give(self._number, slot, batch)
            self._given.append((self._number, slot))
            self._number += 1

    def _taken(self, number: int) -> Filled:
        assert self._processes is not None  # noqa: S101
        try:
            found = self._processes.take(number)
            if isinstance(found, Filled):
                return found
            raise found if isinstance(found, MasklineError) else RuntimeError(f"a loader worker failed:\n{found}")
        except BaseException:  # an interrupt too
            self.close()
            raise


def training_loader(
    reader: ShardReader, augment: Augment, *, batches: GlobalBatches, stride: int, workers: int = 0
) -> TrainingLoader:
    return TrainingLoader(
        TrainingSamples(reader, augment, batches.seed),
        batches,
        stride=stride,
        workers=workers,
        seconds=WORKER_TIMEOUT,
    )
