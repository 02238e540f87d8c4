"""Workers that train one model together: each with a copy of it (DDP), or with a part of it (FSDP2).

In both the gradients are averaged over the workers once a step, however many passes it has (`accumulating`), and in
both the parameters keep their names (`snapshot`). FSDP (Rajbhandari et al., arXiv 1910.02054; Zhao et al.,
arXiv 2304.11277) is for models that are too large for one device: a block's weights are whole only while it is run.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from pipelines.errors import ConfigError
from pipelines.training.optimization.parameter_groups import encoder_of

SMALLEST = 1 / 256  # of the model's parameters: a block with fewer is gathered with what surrounds it
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def wrap(step: nn.Module, *, strategy: str, world: int, device: torch.device) -> nn.Module:
    """`step` is the model (as `model`) with its losses. For one process and for DDP it keeps its parameters; FSDP
    puts others in their place: build the optimiser afterwards."""
    if world == 1:
        return step
    if strategy == "ddp":
        return DistributedDataParallel(
            step,
            device_ids=[device] if device.type == "cuda" else None,
            forward_sync_buffers=False,  # batch norm's statistics are the loop's to average, over all passes
            gradient_as_bucket_view=True,  # no second copy of the gradients
        )
    step.to(memory_format=torch.contiguous_format)  # a part of a weight that is channels-last is none to FSDP
    mesh = init_device_mesh(device.type, (world,))
    for block in blocks(step):
        fully_shard(block, mesh=mesh)
    # The model, not the step, so that it can be asked for predictions too. What is no block stays gathered from forward
    # to backward's end, as losses may use it.
    fully_shard(step.get_submodule("model"), mesh=mesh)
    return step


def blocks(step: nn.Module) -> list[nn.Module]:
    """What FSDP gathers and lets go as one: the blocks of the encoder's stages, which nothing enters but by a call.
    What stands on an encoder is used in more ways (its losses reach into heads), and stays gathered during a step."""
    least = SMALLEST * _size(step)
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, CONTAINERS) or _is_stage(child):
                look(child)
            elif _size(child) >= least:
                found.append(child)

    if (encoder := encoder_of(step)) is not None:
        look(encoder)
    return found


def _is_stage(module: nn.Module) -> bool:
    """Most of it are blocks that it runs one after another."""
    return 2 * sum(_size(child) for child in module.children() if isinstance(child, CONTAINERS)) > _size(module)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@contextmanager
def accumulating(step: nn.Module) -> Iterator[None]:
    """For all passes of a step but the last: forward and backward in it leave the gradients on their worker."""
    if isinstance(step, DistributedDataParallel):
        with step.no_sync():
            yield
    elif isinstance(model := getattr(step, "model", None), FSDPModule):
        model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            model.set_requires_gradient_sync(True)
    else:
        yield


def let_go(model: nn.Module) -> None:
    """Of what FSDP has gathered: the weights that it is gathered from are others now."""
    if isinstance(model, FSDPModule):
        model.reshard()


def clip(model: nn.Module, limit: float) -> Tensor:
    """The norm of all gradients, which are scaled down to `limit` where it is above; 0 clips nothing."""
    norm = nn.utils.clip_grad_norm_(model.parameters(), limit or torch.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def synchronise_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """Statistics over the images of all workers (Zhang et al., arXiv 1803.08904). Before `wrap`."""
    if device.type != "cuda":
        raise ConfigError(
            f"train.sync_batch_norm: torch has it for CUDA only, and train.device is {device.type}",
            do="set train.sync_batch_norm: false, or train.device: cuda",
        )
    converted: nn.Module = convert_sync_batchnorm(model)
    return converted
