"""What an instance model learns from in one image: objects, one per row, and where crowds are."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.errors import ConfigError
from pipelines.models.contract import Classes
from pipelines.targets import InstanceTargets


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The objects of one image; a crowd is none of them, and no background either."""

    boxes: Tensor  # float32[n, 4]: x1, y1, x2, y2
    labels: Tensor  # int64[n]: positions in the model's list of things
    masks: Tensor  # bool[n, h, w]
    crowd: Tensor  # bool[h, w]: pixels of crowds

    @property
    def areas(self) -> Tensor:
        return self.masks.flatten(1).sum(dim=1)

    def __len__(self) -> int:
        return len(self.labels)


def things_of(classes: Classes, model: str) -> tuple[int, ...]:
    if not classes.things:
        raise ConfigError(
            f"model.name: {model} finds things, and the dataset has stuff classes only",
            do="set task: semantic, and a model of it",
        )
    return classes.things


def ids_of(labels: Tensor, things: tuple[int, ...]) -> Tensor:
    """Positions in the model's list of things -> class ids."""
    return torch.tensor(things, device=labels.device)[labels]


def of(targets: InstanceTargets, things: tuple[int, ...]) -> Truth:
    keep = ~targets.iscrowd
    order = torch.tensor(things, device=targets.labels.device)
    return Truth(
        boxes=targets.boxes[keep],
        labels=(targets.labels[keep, None] == order).int().argmax(dim=1),
        masks=targets.masks[keep],
        crowd=targets.masks[targets.iscrowd].any(dim=0),
    )
