"""The training loop: one for all tasks, models, numbers of workers, trials and runs.

What is learned follows from the parameters, the data and the seed. How many workers share the passes over a batch,
where a run was interrupted, and whether validation runs beside it, changes nothing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial

from pipelines.loading.batch import decode
from pipelines.training import validation
from pipelines.training.epoch import Epoch
from pipelines.training.job import Group, Job, LeftError, Row
from pipelines.training.rollback import SpoiltError
from pipelines.training.trainer import Trainer
from pipelines.training.watching import logs, timing
from pipelines.training.watching.watchdog import WAITING, Watchdog


def fit(job: Job, group: Group, on_epoch: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Train, or go on from the last checkpoint in `job.state`; returns the history of all epochs.

    `on_epoch` is called on each rank with every epoch's row when it is whole.
    """
    with closing(Trainer(job, group)) as trainer, _watched(trainer):
        trainer.events.mark("model and data ready")
        while True:
            try:
                _epochs(trainer, on_epoch)
                return trainer.rows()
            except SpoiltError as spoilt:
                trainer.go_back(spoilt)


@contextmanager
def _watched(trainer: Trainer) -> Iterator[None]:
    """What is logged goes to files, and a rank that waits in vain says so."""
    job, group, heart = trainer.job, trainer.group, trainer.heart
    # Where each holds a part of the weights, all wait for all in every layer.
    waiting = WAITING if job.params.train.parallel == "ddp" else WAITING | {"forward", "backward"}
    watchdog = Watchdog(
        heart,
        job.state / "ranks",
        trainer.events,
        rank=group.rank,
        world=group.world,
        hang_seconds=job.params.train.guards.hang_seconds,
        waiting=waiting,
    )
    with logs.to_files(job.state, group.rank, lambda: heart.step, trainer.events), watchdog:
        yield


def _epochs(trainer: Trainer, on_epoch: Callable[[Row], None]) -> None:
    position = trainer.position
    if trainer.unmeasured():  # what was trained before an interruption
        _validate(trainer, on_epoch)
    while position.epoch < trainer.epochs and not trainer.out_of_patience():
        epoch, under_way = position.epoch, Epoch(trainer)
        position.close(_fit_once(trainer) if trainer.fitted else under_way.train())
        trainer.save(epoch)
        if under_way.leave:
            trainer.writer.wait()
            raise LeftError
        if validation.due(epoch, trainer.params, trainer.epochs):
            _validate(trainer, on_epoch)
        else:
            _tell(trainer, epoch, on_epoch)
        _time(trainer, epoch)
    while trainer.unmeasured():
        _validate(trainer, on_epoch)
    trainer.writer.wait()


def _fit_once(trainer: Trainer) -> Row:
    """A model without weights sees some images, evenly spread; every rank the same ones."""
    assert trainer.fitted is not None  # noqa: S101 - who else is asked
    reader, started = trainer.readers["train"], time.monotonic()
    count = min(trainer.params.model.fit_images, len(reader))
    records = (reader[i * len(reader) // count] for i in range(count))
    trainer.fitted.fit((decode(record), record.semantic) for record in records)
    return {"seconds": time.monotonic() - started}


def _validate(trainer: Trainer, on_epoch: Callable[[Row], None]) -> None:
    """The epoch that has just ended; or, beside the training, wait for the one before and begin with this one."""
    trainer.phases.enter("validation")
    if trainer.beside is None:
        epoch = trainer.position.epoch - 1
        row = trainer.validations.rows.get(epoch)  # known where a kill came between it and the checkpoint
        if row is None:
            with trainer.averaged():
                row = validation.together(
                    trainer.model,
                    trainer.job,
                    trainer.group,
                    trainer.readers["val"],
                    gather=trainer.gathered,
                    on_image=partial(trainer.phases.enter, "validation"),
                )
        _measured(trainer, epoch, row, on_epoch)
    else:
        if trainer.beside.epoch is not None:
            epoch = trainer.beside.epoch
            _measured(trainer, epoch, trainer.beside.result(), on_epoch)
        if left := trainer.unmeasured():
            trainer.writer.wait()
            trainer.beside.start(left[0])
    trainer.phases.enter("other")


def _time(trainer: Trainer, epoch: int) -> None:
    """Where the epoch's went."""
    ranks = trainer.gathered(trainer.timer.end_epoch())
    if trainer.group.rank == 0:
        images = len(trainer.batches) * trainer.batches.batch_size
        trainer.events.write("timing", epoch=epoch, **timing.report(ranks, images=images))


def _measured(trainer: Trainer, epoch: int, row: Row, on_epoch: Callable[[Row], None]) -> None:
    trainer.validations.add(epoch, row)
    _tell(trainer, epoch, on_epoch)


def _tell(trainer: Trainer, epoch: int, on_epoch: Callable[[Row], None]) -> None:
    trainer.writer.wait()  # what is told of can be relied on
    row = trainer.rows()[epoch]
    if trainer.group.rank == 0:
        trainer.events.write("epoch", **row)
    on_epoch(row)
