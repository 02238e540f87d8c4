"""The training loop: one for all tasks, models, numbers of workers, trials and runs."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipelines.config import HEADLINE, Params
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError, RunError
from pipelines.evaluation.evaluator import Evaluator, score
from pipelines.inference import package
from pipelines.inference.predictor import Predictor
from pipelines.loading.augment import Augment
from pipelines.loading.batch import Batch, decode
from pipelines.loading.border import Border
from pipelines.loading.loader import training_loader
from pipelines.loading.repeats import image_factors
from pipelines.loading.sampler import GlobalBatches
from pipelines.losses import build as build_loss
from pipelines.models.contract import FittedModel, PixelLoss, SegmentationModel
from pipelines.pixels import Pixels
from pipelines.targets import Targets
from pipelines.training import optim
from pipelines.training.balance import Balance
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.events import EventLog

Row = dict[str, float]  # one line of history.csv


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be trained."""

    params: Params
    data: Path  # the folder of dataset.json
    state: Path  # where checkpoints and events are kept
    balance: Balance | None = None  # where the parameters ask for it


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Where this process stands among those that train together."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module  # DistributedDataParallel where world > 1


class LossStep(nn.Module):
    """Forward and losses as one module, so that DDP sees every parameter that either of them uses."""

    def __init__(self, model: SegmentationModel, pixel_loss: PixelLoss, terms: dict[str, float]):
        super().__init__()
        self.model, self.pixel_loss, self.terms = model, pixel_loss, terms

    def forward(self, images: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.model.losses(self.model(images), targets, self.pixel_loss)
        total = torch.stack([self.terms[name] * loss for name, loss in losses.items()]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}


def fit(job: Job, group: Group, on_epoch: Callable[[Row], None] = lambda row: None) -> list[Row]:
    """Train, or go on from the last checkpoint in `job.state`; returns the history of all epochs."""
    run = _Run(job, group)
    run.events.mark("model and data ready")
    with closing(run.loader):
        for epoch in range(run.epoch, 1 if run.fitted else job.params.train.epochs):
            row = run.fit_once() if run.fitted else run.train_epoch(epoch)
            row |= run.validate()
            run.history.append(row)
            if group.rank == 0:
                run.save(epoch)
                run.events.write("epoch", **row)
            on_epoch(row)
    return run.history


class _Run:
    """A job under way in one process of the group."""

    def __init__(self, job: Job, group: Group):
        params, self.job, self.group = job.params, job, group
        self.params = params
        train = params.train
        self.readers = {split: ShardReader(job.data, split) for split in ("train", "val")}
        self.manifest = self.readers["train"].manifest
        if not len(self.readers["val"]):
            raise DataError(
                "the validation split has no images, which say what epoch is best",
                do="set dataset.splits so that it has some",
            )
        torch.manual_seed(params.seed)  # every rank draws the same initial weights
        self.pixels = Pixels.of(self.manifest.mean, self.manifest.std)
        built = package.build(params.task, params.model.model_dump(), self.manifest.classes, self.pixels)
        self.model = built.to(group.device)
        self.checkpoints = Checkpoints(job.state / "checkpoints")
        self.events = EventLog(job.state / "events.jsonl")
        pixel_loss = build_loss(params.loss.semantic.weighted(), job.balance.class_weights if job.balance else {})
        step = LossStep(self.model, pixel_loss.to(group.device), params.loss.terms.model_dump())
        self.fitted = self.model if isinstance(self.model, FittedModel) else None
        self.optimizer = optim.build(
            self.model, name=train.optimizer, learning_rate=train.learning_rate, weight_decay=train.weight_decay
        )
        self.history: list[Row] = []
        self.epoch = 0
        if (state := self.checkpoints.last()) is not None:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.history, self.epoch = state["history"], state["epoch"] + 1
        self.step = step if self.fitted else group.wrap(step)
        self.batches = GlobalBatches(
            len(self.readers["train"]),
            batch_size=train.batch_size,
            seed=params.seed,
            rank=group.rank,
            world=group.world,
            factors=_factors(job, self.readers["train"]),
        )
        self.loader = training_loader(
            self.readers["train"],
            Augment(**train.augment.model_dump(), border=_border(params)),
            batches=self.batches,
            stride=self.model.stride,
            workers=train.loader_workers,
        )

    def train_epoch(self, epoch: int) -> Row:
        params, started = self.params.train, time.monotonic()
        self.batches.epoch = epoch
        # What the model draws (dropout, proposals) is a function of seed, epoch and rank: a resumed run draws the same.
        torch.manual_seed(self.params.seed + 1_000_003 * (epoch + 1) + 7919 * self.group.rank)
        self.step.train()
        steps = len(self.batches)
        sums: dict[str, Tensor] = {}
        rate = 0.0
        for i, batch in enumerate(self.loader):
            rate = optim.learning_rate(
                epoch * steps + i,
                steps=params.epochs * steps,
                base=params.learning_rate,
                schedule=params.schedule,
                warmup=params.warmup,
            )
            losses = self.train_step(batch, rate, epoch * steps + i)
            if i == 0:
                self.events.mark("first step done")
            for name, loss in losses.items():
                sums[name] = sums.get(name, torch.zeros((), device=loss.device)) + loss
            if self.group.rank == 0:
                self.events.step(
                    epoch=epoch, step=epoch * steps + i + 1, steps=params.epochs * steps, loss=losses["loss"].item()
                )
        seconds = time.monotonic() - started
        means = {name: self._mean(total / steps) for name, total in sums.items()}
        terms = {f"loss_{name}": value for name, value in means.items() if name != "loss"}
        return {
            "epoch": epoch,
            "train_loss": means["loss"],
            **terms,
            "learning_rate": rate,
            "seconds": seconds,
            "images_per_second": steps * params.batch_size / seconds,
        }

    def fit_once(self) -> Row:
        """A model without weights sees some images, evenly spread; every rank the same ones."""
        assert self.fitted is not None  # noqa: S101 - who else is asked
        reader, started = self.readers["train"], time.monotonic()
        count = min(self.params.model.fit_images, len(reader))
        records = (reader[i * len(reader) // count] for i in range(count))
        self.fitted.fit((decode(record), record.semantic) for record in records)
        return {"epoch": 0, "seconds": time.monotonic() - started}

    def train_step(self, batch: Batch, rate: float, step: int) -> dict[str, Tensor]:
        """One update; returns this rank's loss and its terms."""
        params, device = self.params.train, self.group.device
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images = self.pixels.normalise(batch.images.to(device, non_blocking=True))
        with self._autocast():
            total, losses = self.step(images, batch.targets.to(device))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        # Gradients are averaged over the ranks, so their norm is the same on all: all stop, or none.
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), params.clip_norm or torch.inf)
        if not torch.isfinite(norm):
            raise RunError(
                f"non-finite loss or gradient at step {step} (loss {total.item():.4g}, norm {norm.item():.4g}); "
                f"images of the batch on rank {self.group.rank}: {', '.join(batch.ids)}\n"
                "do: lower train.learning_rate, set train.clip_norm, or look at these images"
            )
        self.optimizer.step()
        return {"loss": total.detach(), **losses}

    def validate(self) -> Row:
        """The headline metrics on the validation split, whose images the ranks share."""
        if self.group.world > 1:
            for buffer in self.model.buffers():  # batch norm's statistics: all measure the model that rank 0 saves
                dist.broadcast(buffer, src=0)
        description = {
            "task": self.params.task,
            "classes": self.manifest.to_json()["classes"],
            "mean": self.manifest.mean,
            "std": self.manifest.std,
        }
        predictor = Predictor(self.model, description, str(self.group.device))
        reader, (rank, world) = self.readers["val"], (self.group.rank, self.group.world)
        share = range(rank * len(reader) // world, (rank + 1) * len(reader) // world)
        try:
            with self._autocast():
                mine = score(predictor, reader, indices=share, batch_size=self.params.train.batch_size)
        finally:
            self.model.train()
        metrics = self._merge(mine).compute()
        return {f"val_{HEADLINE[view]}": _number(found[HEADLINE[view]]) for view, found in metrics.items()}

    def save(self, epoch: int) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "epoch": epoch,
        }
        self.checkpoints.save(epoch, self.history[-1][f"val_{HEADLINE[self.params.task]}"], state)

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.params.train.precision == "bfloat16":
            return torch.autocast(self.group.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def _mean(self, value: Tensor) -> float:
        if self.group.world > 1:
            dist.all_reduce(value)
            value = value / self.group.world
        return value.item()

    def _merge(self, mine: Evaluator) -> Evaluator:
        """All ranks' counts in the images' order, on every rank."""
        if self.group.world == 1:
            return mine
        parts: list[Any] = [None] * self.group.world
        dist.all_gather_object(parts, mine)
        for part in parts[1:]:
            parts[0].merge(part)
        merged: Evaluator = parts[0]
        return merged


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


def _number(value: float | None) -> float:
    """An undefined metric (nothing there to find) counts as nothing found."""
    return 0.0 if value is None else value
