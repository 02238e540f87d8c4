"""Running statistics over several passes, batch norm's and those of inputs in 8 bits (`models.quantised`): the mean of
what each pass alone would have left.

Each pass would move them from where the one before had left them, and each worker its own: they would depend on who
saw what. This way they do not, and workers that share the passes end with the same ones.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipelines.models.quantised import Rounded


class RunningStatistics:
    """Call `begin` before the passes of an update, `between` them, and `end` after the last one."""

    def __init__(self, model: nn.Module, *, passes: int, world: int):
        self.passes, self.world = passes, world
        norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        self.means = [b for m in norms for b in (m.running_mean, m.running_var) if b is not None]
        self.means += [b for m in model.modules() if isinstance(m, Rounded) for b in (m.low, m.high)]
        self.counts = [m.num_batches_tracked for m in norms if m.num_batches_tracked is not None]
        if passes == 1:  # there is nothing to average
            self.means, self.counts = [], []
        self._start: list[Tensor] = []
        self._sum: list[Tensor] = []

    def begin(self) -> None:
        if self.means:
            self._start, self._sum = [b.clone() for b in self.means], []

    def between(self) -> None:
        """Keep what a pass has left, and go back to the beginning."""
        if self.means:
            self._add()
            torch._foreach_copy_(self.means, self._start)
            for count in self.counts:
                count -= 1

    def end(self) -> None:
        if not self.means:
            return
        self._add()
        flat = torch.cat([b.flatten() for b in self._sum])
        if self.world > 1:
            dist.all_reduce(flat)
        parts = (flat / self.passes).split([b.numel() for b in self.means])
        torch._foreach_copy_(self.means, [p.view_as(b) for p, b in zip(parts, self.means, strict=True)])

    def _add(self) -> None:
        if self._sum:
            torch._foreach_add_(self._sum, self.means)
        else:
            self._sum = [b.clone() for b in self.means]
