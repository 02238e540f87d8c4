"""One update of the weights, from the passes over a global batch that fall to this rank."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from pipelines.loading.batch import Batch
from pipelines.models.contract import PixelLoss, SegmentationModel
from pipelines.pixels import Pixels
from pipelines.targets import Targets
from pipelines.training.distillation import TERM, Teacher
from pipelines.training.job import Group, Job, gathered
from pipelines.training.optimization import optim
from pipelines.training.optimization.ema import Average
from pipelines.training.parallel.running_statistics import RunningStatistics
from pipelines.training.parallel.waiting import tell_when_waiting
from pipelines.training.parallel.wrap import accumulating, clip
from pipelines.training.validation import autocast
from pipelines.training.watching import guards
from pipelines.training.watching.phases import Phases


class LossStep(nn.Module):
    """Forward and losses as one module, so that DDP sees every parameter that either of them uses."""

    def __init__(
        self,
        model: SegmentationModel,
        pixel_loss: PixelLoss,
        terms: dict[str, float],
        teacher: Teacher | None = None,
    ):
        super().__init__()
        self.model, self.pixel_loss, self.terms, self.teacher = model, pixel_loss, terms, teacher

    def forward(self, images: Tensor, targets: Targets) -> tuple[Tensor, dict[str, Tensor]]:
        outputs = self.model(images)
        losses = self.model.losses(outputs, targets, self.pixel_loss)
        if self.teacher is not None:
            losses = {**losses, TERM: self.teacher.loss(images, outputs, targets.semantic)}
        total = torch.stack([self.terms[name] * loss for name, loss in losses.items()]).sum()
        return total, {name: loss.detach() for name, loss in losses.items()}


class Update:
    """The weights move by the mean gradient of all passes over a global batch, or not at all where that is no number.

    What the model draws (dropout, proposals) is a function of the seed, the update and the pass, and each pass is
    normalised on its own: neither a resumed run nor one of fewer workers learns anything else.
    """

    def __init__(
        self,
        job: Job,
        group: Group,
        *,
        step: nn.Module,
        optimizer: torch.optim.Optimizer,
        average: Average | None,
        pixels: Pixels,
        phases: Phases,
    ):
        self.train, self.seed, self.group = job.params.train, job.params.seed, group
        self.step, self.optimizer, self.average, self.pixels, self.phases = step, optimizer, average, pixels, phases
        self.count = self.train.passes // group.world  # of this rank's passes
        self.running = RunningStatistics(step, passes=self.train.passes, world=group.world)
        tell_when_waiting(step, partial(phases.enter, "communication"))
        self.names: list[str] = []  # of the losses: the total, and the terms
        self.ids: list[str] = []  # of the images that the last update has seen

    def __call__(self, passes: Iterator[Batch], rate: float) -> tuple[Tensor, Tensor]:
        """-> this rank's share of the losses, in the order of `names`, and whether the gradient was finite."""
        self.phases.enter("data")
        optim.set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        self.ids = []
        self.running.begin()
        found = []
        for i in range(self.count - 1):
            with accumulating(self.step):
                found.append(self._pass(next(passes), i))
            self.running.between()
            self.phases.enter("data")
        found.append(self._pass(next(passes), self.count - 1))
        self.phases.enter("update")
        self.running.end()
        losses = torch.stack(found).sum(dim=0) / self.train.passes
        return losses, self._move()

    def _pass(self, batch: Batch, i: int) -> Tensor:
        """Forward and backward; the losses."""
        self.ids += batch.ids
        self.phases.enter("forward", self.ids)
        device = self.group.device
        drawn = i * self.group.world + self.group.rank  # the number of this pass, whoever makes it
        torch.manual_seed(self.seed + 1_000_003 * (self.phases.step + 1) + 7919 * drawn)
        images = self.pixels.normalise(batch.images.to(device, non_blocking=True))
        with autocast(device, self.train.precision):
            total, losses = self.step(images, batch.targets.to(device))
        self._check(list(losses))
        self.phases.enter("backward")
        (total / self.count).backward()
        return torch.stack([total.detach(), *losses.values()])

    def _move(self) -> Tensor:
        """Gradients are averaged over the ranks, so their norm is the same on all: all move, or none."""
        finite = clip(self.step, self.train.clip_norm).isfinite()
        if self.train.parallel == "fsdp" and self.group.world > 1:
            if finite:
                self.optimizer.step()
        else:
            # Looked at where the optimiser runs, so that the host need not wait for a GPU.
            self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
            self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return finite

    def _check(self, losses: list[str]) -> None:
        """Ranks that speak of different losses would add them up all the same."""
        if not self.names:
            self.names = ["loss", *losses]
            guards.same_keys("losses", gathered(dict.fromkeys(losses, ""), self.group.world))
            shapes = guards.shapes(self.step.named_parameters())
            guards.same_keys("parameters", gathered(shapes, self.group.world))
        elif self.names[1:] != losses:
            raise ValueError(f"the model's losses were {self.names[1:]} and are {losses} now")
