"""An exponential moving average of a model's weights, which generalises better than where training happens to stand.

Polyak and Juditsky, SIAM J. Control Optim. 1992. The decay begins low, min(decay, (1 + t) / (10 + t)) after t updates
as in TensorFlow's, so that the random first weights are soon forgotten. Float buffers (batch norm's statistics) are
averaged with the weights that they belong to; counters are not.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.training.parallel.snapshot import local, part, whole


class Average:
    """Of a model that is on its device, and cut up where it is to be: each worker averages what it holds."""

    def __init__(self, model: nn.Module, decay: float):
        self.model, self.decay, self.updates = model, decay, 0
        state = model.state_dict(keep_vars=True)
        # A weight that has two names is one tensor, and is averaged once.
        first = {id(value): name for name, value in reversed(state.items()) if value.is_floating_point()}
        self.names = {name: first[id(value)] for name, value in state.items() if id(value) in first}
        self.others = [name for name in state if name not in self.names]  # counters, which are not averaged
        live = {name: state[name].detach() for name in state if first.get(id(state[name])) == name}
        self.weights = {name: value.clone() for name, value in live.items()}
        self.live = [local(value) for value in live.values()]
        self.average = [local(value) for value in self.weights.values()]

    @torch.no_grad()
    def update(self) -> None:
        """After each step of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, self.live, 1 - decay)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[nn.Module]:
        """The model with the averaged weights; it has its own again afterwards, and is in the mode that it was in."""
        modes = [(module, module.training) for module in self.model.modules()]
        kept = [value.clone() for value in self.live]
        self._put(self.average)
        try:
            yield self.model
        finally:
            self._put(kept)
            for module, training in modes:
                module.training = training

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self.live, values)

    def state_dict(self, *, keep: bool = True) -> dict[str, Any]:
        """As `snapshot.model_state`: whole, on the CPU, asked of every worker at once."""
        averaged = {name: whole(value, keep=keep) for name, value in self.weights.items()}
        state = self.model.state_dict()
        weights = {name: averaged[first] for name, first in self.names.items()}
        weights |= {name: whole(state[name], keep=keep) for name in self.others}
        return {"updates": self.updates, "weights": weights} if keep else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if other := sorted(state["weights"].keys() ^ {*self.names, *self.others}):
            raise ValueError(f"an average of another model: {', '.join(other[:3])}")
        self.updates = state["updates"]
        for name, value in self.weights.items():
            local(value).copy_(local(part(state["weights"][name], value)))
