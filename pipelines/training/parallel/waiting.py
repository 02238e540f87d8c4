"""When a rank begins to wait for the others in its backward pass.

DDP sends gradients while others are still computed; what is hidden that way costs nothing. From the last gradient on
there is nothing left to do but to wait.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel


def tell_when_waiting(step: torch.nn.Module, tell: Callable[[], None]) -> None:
    """`tell` is called, in a thread of autograd's, when a module of DDP has its last gradient; of any other, never."""

    def send(group: dist.ProcessGroup, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """What DDP does without a hook."""
        if bucket.is_last():
            tell()
        return allreduce_hook(group, bucket)

    if isinstance(step, DistributedDataParallel):
        step.register_comm_hook(dist.group.WORLD, send)
