"""The state of a model and of its optimiser as plain tensors on the CPU, whole, whoever held what part of them.

One process, several with copies (DDP) and several with a part each (FSDP) give the same dictionaries, torch's own, and
take one another's: a run may go on with other workers, and another kind of them, than it was begun with. (What
torch.distributed.checkpoint makes of an optimiser has other names than the optimiser's own, which older readers know.)
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

State = dict[str, Any]
KERNELS = ("fused", "foreach")  # how an optimiser computes: its own affair, and not the same for copies and for parts


def model_state(model: nn.Module, *, keep: bool = True) -> State:
    """A copy that training does not change. Every worker must ask at once; those that do not `keep` it get nothing."""
    return _kept(((name, whole(value, keep=keep)) for name, value in model.state_dict().items()), keep)


def optimizer_state(optimizer: torch.optim.Optimizer, *, keep: bool = True) -> State:
    """As `model_state`."""
    state = optimizer.state_dict()
    tensors = {
        number: _kept(((name, whole(value, keep=keep)) for name, value in values.items()), keep)
        for number, values in state["state"].items()
    }
    groups = [{k: v for k, v in group.items() if k not in KERNELS} for group in state["param_groups"]]
    return {"state": tensors, "param_groups": groups} if keep else {}


def load_model(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Each worker reads the whole and takes its part."""
    present = model.state_dict()
    model.load_state_dict({name: part(value, present.get(name)) for name, value in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        number: {name: _as_laid_out(part(value, parameters[number]), parameters[number]) for name, value in own.items()}
        for number, own in state["state"].items()
    }
    groups = [
        group | {k: own[k] for k in KERNELS if k in own}
        for group, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({"state": parts, "param_groups": groups})


def _as_laid_out(value: Any, parameter: Tensor) -> Any:
    """In the parameter's order in memory (channels last, or not), which torch's fused steps take for granted."""
    if not isinstance(value, Tensor) or isinstance(parameter, DTensor) or value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def whole(value: Any, *, keep: bool = True) -> Any:
    """A tensor's copy on the CPU, gathered where workers hold parts of it; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach()
    gathered = value.full_tensor() if isinstance(value, DTensor) else value
    return gathered.to("cpu", copy=True) if keep else None


def part(value: Any, like: Tensor | None) -> Any:
    """Of a whole tensor what this worker holds of `like`, which has the same shape; anything else as it is."""
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    # No source rank: nothing is sent, since every worker has read the same checkpoint.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """What this worker holds of it, in place."""
    if isinstance(tensor, DTensor):
        with torch.no_grad():  # else a view that autograd follows
            return tensor.to_local()
    return tensor


def _kept(pairs: Iterable[tuple[str, Any]], keep: bool) -> State:
    """All pairs are made, which the workers do together."""
    made = dict(pairs)
    return made if keep else {}
