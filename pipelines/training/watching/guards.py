"""What a training must not go on from, told from what the ranks hold: pure, so that each can be tested alone.

What follows from it (a way back to the last checkpoint, or the end) is the loop's to decide.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from torch import Tensor

from pipelines.errors import RunError

WINDOW, LEAST = 64, 16  # losses: that are compared with, and without which nothing is a spike
STRAGGLING = 1.5  # times the median of the other ranks
NAMED = 5  # parameters in a message


class Spikes:
    """The last losses, and whether one stands out. `factor` 0: none does."""

    def __init__(self, factor: float):
        self.factor = factor
        self.losses: deque[float] = deque(maxlen=WINDOW)

    def looks_like_a_spike(self, loss: float) -> bool:
        if not self.factor or len(self.losses) < LEAST:
            return False
        return loss > self.factor * median(self.losses)

    def add(self, loss: float) -> None:
        """A loss that was learned from."""
        self.losses.append(loss)

    def state_dict(self) -> dict[str, list[float]]:
        return {"losses": list(self.losses)}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        self.losses = deque(state["losses"], maxlen=WINDOW)


class Stragglers:
    """A rank's own seconds per step, without those in which it waits for others, over windows of `steps`."""

    def __init__(self, steps: int):
        self.steps = steps
        self.seconds: list[float] = []

    def add(self, seconds: float) -> float | None:
        """The window's median when it is full (to be gathered from all ranks, who all fill it at the same step)."""
        self.seconds.append(seconds)
        if len(self.seconds) < self.steps:
            return None
        found = median(self.seconds)
        self.seconds = []
        return found


def stragglers(seconds: Sequence[float]) -> list[str]:
    """A sentence for each rank that falls behind; `seconds` per step, by rank."""
    said = []
    for rank, own in enumerate(seconds):
        others = [*seconds[:rank], *seconds[rank + 1 :]]
        if others and own > STRAGGLING * median(others):
            said.append(
                f"rank {rank} falls behind: {own:.3g} s per step against {median(others):.3g} s of the others; "
                "look what else runs on its machine, or for a slow disk"
            )
    return said


def shapes(named: Iterable[tuple[str, Tensor]]) -> dict[str, list[int]]:
    """What `same_keys` compares: of a model's parameters, of the terms of a loss."""
    return {name: list(tensor.shape) for name, tensor in named}


def same_keys(what: str, ranks: Sequence[Mapping[str, Any]]) -> None:
    """Refuse ranks that hold other names or shapes than rank 0: collectives would hang, or add what is not the same."""
    for rank, found in enumerate(ranks):
        only = [f"{name} is on rank {rank} alone" for name in found if name not in ranks[0]]
        only += [f"{name} is missing on rank {rank}" for name in ranks[0] if name not in found]
        only += [
            f"{name} is {found[name]} on rank {rank} and {expected} on rank 0"
            for name, expected in ranks[0].items()
            if name in found and found[name] != expected
        ]
        if not only and list(found) != list(ranks[0]):
            only = [f"rank {rank} holds them in another order"]
        if only:
            raise RunError(
                f"the ranks differ in their {what}: {_few(only, '; ')}\n"
                "do: see that every node has the same code and the same versions of torch and timm"
            )


def _few(names: list[str], between: str) -> str:
    rest = len(names) - NAMED
    return between.join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
