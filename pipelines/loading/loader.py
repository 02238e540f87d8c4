"""Shards -> batches."""

from functools import partial

from torch.utils.data import DataLoader, Dataset

from pipelines.data.shards import ShardReader
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


def training_loader(
    reader: ShardReader, augment: Augment, *, batches: GlobalBatches, stride: int, workers: int = 0
) -> "DataLoader[Batch]":
    return DataLoader(  # its stubs do not see that collate turns samples into batches
        TrainingSamples(reader, augment, batches.seed),  # type: ignore[arg-type]
        batch_sampler=batches,
        collate_fn=partial(collate, stride=stride),
        num_workers=workers,
        timeout=WORKER_TIMEOUT if workers else 0,
        multiprocessing_context="forkserver" if workers else None,
        persistent_workers=workers > 0,  # starting them takes seconds, and an epoch may take fewer
    )
