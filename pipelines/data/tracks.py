"""An object through the frames of a video, as run lengths: what trackers make and video AP is counted of."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Track:
    """A truth, or a prediction with its score."""

    category: int  # index in the class table
    masks: tuple[np.ndarray | None, ...]  # of each frame uint32[n] run lengths as COCO's; None where it is not seen
    score: float = 1.0
    iscrowd: bool = False

    def __post_init__(self) -> None:
        for counts in self.masks:
            if counts is not None and (counts.dtype != np.uint32 or counts.ndim != 1):
                raise ValueError(f"a mask must be uint32[n] run lengths, got {counts.dtype}{list(counts.shape)}")
