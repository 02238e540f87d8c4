"""A video as the rest of the package sees it, whatever it comes from: frames in order, one at a time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipelines.errors import DataError

Frames = Iterator[tuple[str, np.ndarray]]


def _unlabelled(_: str) -> np.ndarray | None:
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """`given` are the objects that can be followed, and the name of the frame in which each one's mask is given."""

    name: str  # what its results are called: a folder's name, or several with slashes
    names: tuple[str, ...] = ()  # of its frames; none where a file does not say how many there are
    frames: Callable[[], Frames]  # name, uint8[h, w, 3] RGB of each
    annotated: tuple[str, ...] = ()  # those of them that have labels
    labels: Callable[[str], np.ndarray | None] = _unlabelled  # a frame's name -> [h, w] of objects' ids, 0 for none
    given: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (self.name, *self.names):
            if {"", ".", ".."} & set(name.split("/")):
                raise DataError(f"{name!r} is no name of a video or a frame", do="rename it: its results have its name")
