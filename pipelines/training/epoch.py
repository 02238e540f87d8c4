"""One epoch: updates, and what the ranks say of them."""

import logging
import time
from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.loading.batch import Batch
from pipelines.training.job import LeftError, Row
from pipelines.training.optimization import schedule
from pipelines.training.parallel.pulse import Pulse
from pipelines.training.rollback import SpoiltError
from pipelines.training.trainer import Trainer
from pipelines.training.watching.guards import stragglers

log = logging.getLogger(__name__)
LOOK = 1.0  # seconds between rank 0's looks at the clock, and at whether the group is to leave


class Epoch:
    """One epoch, from where the trainer stands in it to its end."""

    def __init__(self, trainer: Trainer):
        self.trainer, self.position, self.pulse = trainer, trainer.position, Pulse(trainer.group.world)
        self.ids: list[str] = []  # of the images of the update whose pulse is on its way
        self.leave = False  # once it is over

    def train(self) -> Row:
        trainer, position = self.trainer, self.position
        started, before = time.monotonic(), position.seconds
        trainer.batches.epoch = position.epoch
        trainer.step.train()
        passes = trainer.loader.starting(position.batch)
        while position.batch < len(trainer.batches):
            self._step(passes)
            position.seconds = before + time.monotonic() - started
        _, self.leave = self._listen()
        return {"learning_rate": self._rate(position.step - 1), "seconds": position.seconds}

    def _step(self, passes: Iterator[Batch]) -> None:
        """One update, while what the ranks say of the one before is on its way."""
        trainer, position = self.trainer, self.position
        trainer.phases.step = number = position.step
        told = None
        if number in trainer.rollbacks.left_out:
            for _ in range(trainer.update.count):
                next(passes)
        else:
            told = self._told(*trainer.update(passes, self._rate(number)))
        save, leave = self._listen()
        position.step, position.batch = number + 1, position.batch + 1
        if told is not None:
            self.pulse.beat(told)
            self.ids = trainer.update.ids
        self._compare()
        if number == 0:
            trainer.events.mark("first step done")
        if save or leave:
            _, leave_now = self._listen()
            leave |= leave_now
            trainer.save()
        if leave:
            trainer.writer.wait()
            raise LeftError

    def _compare(self) -> None:
        """Now and then, whether one rank makes the others wait; by the hosts' time, which says little of a GPU's."""
        trainer = self.trainer
        own = trainer.stragglers.add(trainer.phases.own())
        if own is not None and trainer.group.world > 1:
            for behind in stragglers(trainer.gathered(own)):
                if trainer.group.rank == 0:
                    log.warning(behind)

    def _told(self, losses: Tensor, finite: Tensor) -> Tensor:
        """What this rank has to tell: its share of the losses, and whether anything is out of order."""
        save = leave = False
        if self.trainer.group.rank == 0 and time.monotonic() - self.trainer.looked > LOOK:
            self.trainer.looked = time.monotonic()
            save = self.trainer.looked - self.trainer.saved > 60 * self.trainer.params.train.checkpoint_minutes
            leave = self.trainer.group.leave()
        flags = torch.tensor([save, leave], dtype=torch.float32).to(losses.device, non_blocking=True)
        spoilt = ~(finite & losses.isfinite().all())
        return torch.cat([losses, spoilt.float().reshape(1), flags])

    def _listen(self) -> tuple[bool, bool]:
        """What all ranks said of the update before: is the state to be saved, is the group to leave?"""
        trainer = self.trainer
        trainer.phases.enter("communication")
        said = self.pulse.read()
        trainer.phases.enter("other")
        if said is None:
            return False, False
        names = trainer.update.names
        losses, (spoilt, save, leave) = said[: len(names)], said[len(names) :]
        number = self.position.step - 1
        if spoilt:
            terms = ", ".join(f"{name} {loss:.4g}" for name, loss in zip(names, losses, strict=True))
            raise self._spoilt(f"non-finite loss or gradient at step {number} ({terms})")
        if trainer.spikes.looks_like_a_spike(losses[0]):
            raise self._spoilt(f"a loss of {losses[0]:.4g} at step {number}, far above those before it")
        trainer.spikes.add(losses[0])
        self.position.saw(names, losses)
        if trainer.group.rank == 0:
            trainer.events.step(epoch=self.position.epoch, step=number + 1, steps=trainer.steps, loss=losses[0])
        return bool(save), bool(leave)

    def _spoilt(self, what: str) -> SpoiltError:
        return SpoiltError(self.position.step - 1, what, self.trainer.gathered(self.ids))

    def _rate(self, step: int) -> float:
        trainer, train = self.trainer, self.trainer.params.train
        return schedule.learning_rate(
            step, steps=trainer.steps, base=trainer.base_rate, schedule=train.schedule, warmup=train.warmup
        )
