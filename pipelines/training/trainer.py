"""A job in one process of the group: its parts, and the state that they come back from."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch

from pipelines.config import Params
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError, RunError
from pipelines.inference import package
from pipelines.loading.augment import Augment
from pipelines.loading.border import Border
from pipelines.loading.loader import training_loader
from pipelines.loading.repeats import image_factors
from pipelines.loading.sampler import GlobalBatches
from pipelines.losses import build as build_loss
from pipelines.models.contract import FittedModel, SegmentationModel
from pipelines.pixels import Pixels
from pipelines.training.checkpoint import Checkpoints, State, Writer
from pipelines.training.distillation import TERM, teacher_of
from pipelines.training.job import Group, Job, Row, gathered
from pipelines.training.optimization import optim, schedule
from pipelines.training.optimization.ema import Average
from pipelines.training.parallel import snapshot
from pipelines.training.parallel.compiled import compile_training
from pipelines.training.parallel.wrap import let_go, synchronise_batch_norm, wrap
from pipelines.training.position import Position
from pipelines.training.rollback import Rollbacks, SpoiltError
from pipelines.training.update import LossStep, Update
from pipelines.training.validation import Beside, Validations, due
from pipelines.training.watching.events import EventLog
from pipelines.training.watching.guards import Spikes, Stragglers
from pipelines.training.watching.heartbeat import Heartbeat
from pipelines.training.watching.phases import Phases
from pipelines.training.watching.timing import Timer

WINDOW = 100  # updates over which the ranks' speeds are compared


class Trainer:
    """Built anew by every attempt; `restore` then puts it where the last whole checkpoint stands."""

    def __init__(self, job: Job, group: Group):
        self.job, self.group, self.params = job, group, job.params
        train = self.params.train
        self.readers = {split: ShardReader(job.data, split) for split in ("train", "val")}
        manifest = self.readers["train"].manifest
        if not len(self.readers["val"]):
            raise DataError(
                "the validation split has no images, which say what epoch is best",
                do="set dataset.splits so that it has some",
            )
        torch.manual_seed(self.params.seed)  # every rank draws the same initial weights
        pixels = Pixels.of(manifest.mean, manifest.std)
        built = package.build(self.params.task, self.params.model.model_dump(), manifest.classes, pixels)
        if train.sync_batch_norm:
            synchronise_batch_norm(built, group.device)
        self.model: SegmentationModel = built.to(group.device)
        if train.compile:
            compile_training(self.model)
        self.fitted = self.model if isinstance(self.model, FittedModel) else None
        self.batches = GlobalBatches(
            len(self.readers["train"]),
            batch_size=train.batch_size,
            seed=self.params.seed,
            rank=group.rank,
            world=group.world,
            passes=train.passes,
            factors=_factors(job, self.readers["train"]),
        )
        self.loader = training_loader(
            self.readers["train"],
            Augment(**train.augment.model_dump(), border=_border(self.params)),
            batches=self.batches,
            stride=self.model.stride,
            workers=train.loader_workers,
        )
        self.steps = train.epochs * len(self.batches)
        self.base_rate = schedule.base_rate(
            train.learning_rate,
            scaling=train.scaling,
            batch_size=train.batch_size,
            reference_batch=train.reference_batch,
        )
        pixel_loss = build_loss(self.params.loss.semantic.weighted(), job.balance.class_weights if job.balance else {})
        step = LossStep(
            self.model,
            pixel_loss.to(group.device),
            {**self.params.loss.terms.model_dump(), TERM: train.distill.weight},
            teacher_of(self.params, manifest, pixels, group.device),
        )
        # What has no weights has no gradients that anyone could share.
        self.step = step if self.fitted else wrap(step, strategy=train.parallel, world=group.world, device=group.device)
        self.optimizer = optim.build(
            self.model,
            name=train.optimizer,
            learning_rate=self.base_rate,
            weight_decay=train.weight_decay,
            encoder_rate=train.encoder_rate,
            layer_decay=train.layer_decay,
        )
        self.average = Average(self.model, decay=train.ema) if train.ema and not self.fitted else None
        self.timer = Timer(cuda=group.device.type == "cuda")
        self.heart = Heartbeat(job.state / "ranks", group.rank)
        self.phases = Phases(self.timer, self.heart)
        self.stragglers = Stragglers(WINDOW)
        self.update = Update(
            job,
            group,
            step=self.step,
            optimizer=self.optimizer,
            average=self.average,
            pixels=pixels,
            phases=self.phases,
        )
        self.spikes = Spikes(train.guards.spike)
        self.checkpoints = Checkpoints.of(job.state)
        self.writer = Writer(self.checkpoints)
        self.events = EventLog(job.state / "events.jsonl")
        self.rollbacks = Rollbacks(job.state, most=train.guards.rollbacks, group=group)
        self.position, self.saved = Position(), time.monotonic()
        self.looked = self.saved  # for whether the group is to leave: an epoch may be shorter than the time between
        self.validations = Validations(job.state, {}, keeps=group.rank == 0)
        self.beside = Beside(job, group) if train.validation.beside else None
        if (state := self.restore()) is not None:
            # And not again where this process goes back. The clock of an epoch that was over had not been told.
            self.timer.load_state_dict(state["time"], over=not self.position.batch)
        if train.guards.rollbacks and not self.position.step:
            self.save()  # so that there is something to go back to

    @property
    def epochs(self) -> int:
        return 1 if self.fitted else self.params.train.epochs

    def gathered(self, value: Any) -> list[Any]:
        """Each rank's. One that does not come is named by those that wait for it."""
        with self.phases.waiting():
            return gathered(value, self.group.world)

    def rows(self) -> list[Row]:
        return self.validations.merged(self.position.rows)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model as it is measured and kept."""
        with self.average.swapped() if self.average else nullcontext():
            let_go(self.model)
            yield
        let_go(self.model)

    def unmeasured(self) -> list[int]:
        """Epochs that are done and not measured yet."""
        done = range(self.position.epoch)
        return [e for e in done if due(e, self.params, self.epochs) and e not in self.validations.rows]

    def out_of_patience(self) -> bool:
        """Has nothing become better in `train.patience` validations? Of one beside the training only those count that
        it has waited for, whether or not another is known already."""
        measured = [e for e in range(self.position.epoch) if due(e, self.params, self.epochs)]
        waited_for = measured[:-1] if self.beside else measured
        known = self.validations.scores(self.params.task)
        scores = [known[e] for e in waited_for if e in known]
        patience = self.params.train.patience
        return bool(patience and scores) and len(scores) - 1 - scores.index(max(scores)) >= patience

    def save(self, epoch: int | None = None) -> None:
        """In the background; `epoch`: the one that ends here."""
        self.phases.enter("checkpoint")
        state, step = self.state(), self.position.step
        self.saved = time.monotonic()
        if self.group.rank == 0:
            committed = partial(self.events.write, "checkpoint", step=step)
            self.writer.save(state, step=step, epoch=epoch, committed=committed)
            scores = self.validations.scores(self.params.task)
            best = max(scores, key=lambda e: (scores[e], -e), default=-1)
            self.checkpoints.prune({best, *self.unmeasured()})
        self.phases.enter("other")

    def state(self) -> State:
        """All that training goes on from, for rank 0 to keep. What is drawn follows from the seed and the position, and
        is no state."""
        keep = self.group.rank == 0
        return {
            "model": snapshot.model_state(self.model, keep=keep),
            "optimizer": snapshot.optimizer_state(self.optimizer, keep=keep),
            "average": self.average.state_dict(keep=keep) if self.average else None,
            "spikes": self.spikes.state_dict(),
            "time": self.timer.state_dict(),
            "position": self.position.state(),
            "validations": dict(self.validations.rows),
        }

    def restore(self) -> State | None:
        """To the newest whole checkpoint, the same one on all ranks; where there is none, nothing changes."""
        self.writer.wait()
        state = self.checkpoints.last() if self.group.rank == 0 else None
        step = self.gathered(None if state is None else state["position"]["step"])[0]
        if step is None:
            return None
        if state is None:
            state = self.checkpoints.last(step)
        if state is None:
            raise RunError(
                f"rank {self.group.rank} does not find the checkpoint of step {step} in {self.checkpoints.folder}\n"
                "do: put the project's folder where all nodes see it"
            )
        snapshot.load_model(self.model, state["model"])
        snapshot.load_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.spikes.load_state_dict(state["spikes"])
        self.position = Position(**state["position"])
        self.validations = Validations(self.job.state, state["validations"], keeps=self.group.rank == 0)
        # Each has read the file, and a file system that is shared may show each another one.
        self.validations.rows = self.gathered(self.validations.rows)[0]
        return state

    def go_back(self, spoilt: SpoiltError) -> None:
        """To before this update, which is left out from now on; or the end."""
        self.rollbacks.allow(spoilt)
        if self.restore() is None:
            raise RunError(f"{spoilt}\nthere is no whole checkpoint to go back to\ndo: lower train.learning_rate")
        text = f"{spoilt}\ngoing back to step {self.position.step}, and leaving this batch out"
        if self.group.rank == 0:
            self.events.write("rollback", rank=0, step=spoilt.step, text=text)

    def close(self) -> None:
        self.loader.close()
        self.writer.wait()


def _factors(job: Job, reader: ShardReader) -> np.ndarray | None:
    """How often each training image comes in an epoch."""
    if job.params.train.sampling == "uniform":
        return None
    if job.balance is None:
        raise ValueError("train.sampling: repeat_factor asks for a job with a balance")
    return image_factors(reader, job.balance.repeat_factors)


def _border(params: Params) -> Border | None:
    """The map that the loader makes, where a loss asks for it."""
    loss = params.loss.semantic.border_cross_entropy
    return Border(weight=loss.border_weight, sigma=loss.sigma) if loss and loss.weight > 0 else None
