"""What a model says of one image. Models produce these, metrics and reports consume them, none asks who made them."""

from dataclasses import dataclass

import numpy as np

from pipelines.data import runs


@dataclass(frozen=True, kw_only=True, slots=True)
class Instances:
    """Scored instances of one image; the masks may overlap."""

    masks: np.ndarray  # bool[n, h, w]
    labels: np.ndarray  # int64[n]: class ids
    scores: np.ndarray  # float32[n] in 0..1
    boxes: np.ndarray  # float32[n, 4]: x1, y1, x2, y2

    def __post_init__(self) -> None:
        n = len(self.labels)
        found = {"masks": self.masks.shape[:1], "scores": self.scores.shape, "boxes": self.boxes.shape}
        if found != {"masks": (n,), "scores": (n,), "boxes": (n, 4)} or self.masks.ndim != 3:
            raise ValueError(f"{n} labels with {found}")
        if self.masks.dtype != bool:
            raise ValueError(f"masks must be bool, got {self.masks.dtype}")

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class Panoptic:
    """Every pixel belongs to one segment, or to none (0)."""

    ids: np.ndarray  # int32[h, w]: 0 is void, k is the segment in row k - 1 of `labels`
    labels: np.ndarray  # int64[n]: class ids; a stuff class appears at most once
    iscrowd: np.ndarray  # bool[n]: truths only; a prediction has none

    def __post_init__(self) -> None:
        if self.labels.shape != self.iscrowd.shape or self.labels.ndim != 1:
            raise ValueError(f"{self.labels.shape} labels with {self.iscrowd.shape} crowd flags")
        if self.ids.size and not 0 <= int(self.ids.min()) <= int(self.ids.max()) <= len(self.labels):
            raise ValueError(f"segment ids {self.ids.min()}..{self.ids.max()} with {len(self.labels)} segments")

    def runs(self) -> "PanopticRuns":
        start, ids = runs.of_pixels(self.ids)
        return PanopticRuns(shape=self.ids.shape, start=start, ids=ids, labels=self.labels, iscrowd=self.iscrowd)


@dataclass(frozen=True, kw_only=True, slots=True)
class PanopticRuns:
    """A `Panoptic` by its runs of equal pixels in row-major order: what PQ is counted by, and all that is made of a
    file of which nobody wants a map."""

    shape: tuple[int, ...]  # h, w
    start: np.ndarray  # int64[k]: rising, the first 0
    ids: np.ndarray  # [k]: as in Panoptic
    labels: np.ndarray
    iscrowd: np.ndarray

    def __post_init__(self) -> None:
        if self.labels.shape != self.iscrowd.shape or self.start.shape != self.ids.shape:
            raise ValueError(
                f"{self.labels.shape} labels with {self.iscrowd.shape} crowd flags, {self.start.shape} runs with "
                f"{self.ids.shape} ids"
            )
        if self.ids.size and not 0 <= int(self.ids.min()) <= int(self.ids.max()) <= len(self.labels):
            raise ValueError(f"segment ids {self.ids.min()}..{self.ids.max()} with {len(self.labels)} segments")


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Whichever views the model's task gives; a panoptic model gives all three."""

    semantic: np.ndarray | None = None  # uint8[h, w] class ids
    confidence: np.ndarray | None = None  # float32[h, w]: the probability that the model gives each pixel's class
    instances: Instances | None = None
    panoptic: Panoptic | None = None
