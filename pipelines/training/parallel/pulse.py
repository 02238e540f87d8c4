"""What the ranks of a group tell each other with every update: a few numbers, summed.

They are read with the next update, when they have long arrived: nobody waits for them, and on a GPU nothing has to be
synchronised. That costs one thing: what they say is known one update late.
"""

import torch
import torch.distributed as dist
from torch import Tensor


class Pulse:
    """`beat` sends one update's numbers; `read` gives those of the last one that was sent, once."""

    def __init__(self, world: int):
        self.world = world
        self._sent: Tensor | None = None
        self._work: dist.Work | None = None
        self._arrived: torch.cuda.Event | None = None

    def beat(self, values: Tensor) -> None:
        """float32[n], on the device that training runs on; summed over the ranks."""
        if self.world > 1:
            self._work = dist.all_reduce(values, async_op=True)
        if values.is_cuda:
            if self._work is not None:
                self._work.wait()  # the stream does, not the host
            values = values.to("cpu", non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()
        self._sent = values

    def read(self) -> list[float] | None:
        """None where nothing was sent since the last time."""
        if self._sent is None:
            return None
        if self._arrived is not None:
            self._arrived.synchronize()
        elif self._work is not None:
            self._work.wait()
        values: list[float] = self._sent.tolist()
        self._sent = self._work = self._arrived = None
        return values
