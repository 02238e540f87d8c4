"""Shards -> batches."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from pipelines.data.shards import ShardReader
from pipelines.errors import MasklineError
from pipelines.loading.augment import Augment
from pipelines.loading.batch import Batch, Sample, collate, decode
from pipelines.loading.sampler import GlobalBatches

WORKER_TIMEOUT = 300.0  # seconds without a batch after which a dead or hung loader worker ends the run


class TrainingSamples(Dataset[Sample]):
    """Augmented samples by (epoch, index)."""

    def __init__(self, reader: ShardReader, augment: Augment, seed: int):
        self.reader, self.augment, self.seed = reader, augment, seed

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        record = self.reader[index]
        return self.augment(record, decode(record), (self.seed, epoch, index))

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Sample] | MasklineError:
        """A batch at once, as torch asks for it; `TrainingLoader` raises the error, in the words that it was made of.
        Raised here, it would come out of a worker with a traceback for its text."""
        try:
            return [self[key] for key in keys]
        except MasklineError as error:
            return error


class TrainingLoader(DataLoader[Any]):  # its stubs do not see that collate turns samples into batches
    """Batches of one epoch, each time it is iterated over."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, MasklineError):
                raise batch
            yield batch


def _collate(samples: list[Sample] | MasklineError, stride: int) -> Batch | MasklineError:
    return samples if isinstance(samples, MasklineError) else collate(samples, stride)


def training_loader(
    reader: ShardReader, augment: Augment, *, batches: GlobalBatches, stride: int, workers: int = 0
) -> TrainingLoader:
    return TrainingLoader(
        TrainingSamples(reader, augment, batches.seed),
        batch_sampler=batches,
        collate_fn=partial(_collate, stride=stride),
        num_workers=workers,
        generator=torch.Generator(),  # its own: the model draws from the global one, whatever the number of workers
        timeout=WORKER_TIMEOUT if workers else 0,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,  # starting them takes seconds, and an epoch may take fewer
    )
