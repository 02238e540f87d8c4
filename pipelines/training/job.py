"""What is trained, by whom, and what is said of each epoch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipelines.config import Params
from pipelines.training.balance import Balance

Row = dict[str, float]  # one line of history.csv
TIMES = ("seconds",)  # of a row, which no two runs share


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
    leave: Callable[[], bool] = lambda: False  # asked by rank 0 now and then: is the group to save its state and end?


class LeftError(Exception):
    """The group ended because it was told to; its last checkpoint is of its last update."""


def gathered(value: Any, world: int) -> list[Any]:
    """Each rank's."""
    if world == 1:
        return [value]
    found: list[Any] = [None] * world
    dist.all_gather_object(found, value)
    return found
