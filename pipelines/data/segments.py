"""The segments of one image as arrays: hundreds of nuclei are a handful of views until somebody asks for one."""

from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np

from pipelines.data.schema import Segment


class Segments(Sequence[Segment]):
    """A sequence of `Segment`, made when they are asked for."""

    __slots__ = ("area", "bbox", "category", "counts", "iscrowd", "offsets")

    def __init__(
        self,
        *,
        category: np.ndarray,  # int[n]
        bbox: np.ndarray,  # int[n, 4]
        area: np.ndarray,  # int[n]
        iscrowd: np.ndarray,  # bool[n]
        counts: np.ndarray,  # uint32[runs]: those of all segments, one after the other
        offsets: np.ndarray,  # int[n + 1]: where each one's begin, and the end
    ):
        self.category, self.bbox, self.area, self.iscrowd = category, bbox, area, iscrowd
        self.counts, self.offsets = counts, offsets

    @classmethod
    def of(cls, segments: Sequence[Segment]) -> "Segments":
        if isinstance(segments, Segments):
            return segments
        return cls(
            category=np.array([s.category for s in segments], np.int32),
            bbox=np.array([s.bbox for s in segments], np.int32).reshape(-1, 4),
            area=np.array([s.area for s in segments], np.int64),
            iscrowd=np.array([s.iscrowd for s in segments], bool),
            counts=np.concatenate([np.zeros(0, np.uint32), *(s.counts for s in segments)]),
            offsets=np.cumsum([0, *(len(s.counts) for s in segments)]),
        )

    def __len__(self) -> int:
        return len(self.category)

    @overload
    def __getitem__(self, k: int) -> Segment: ...
    @overload
    def __getitem__(self, k: slice) -> tuple[Segment, ...]: ...
    def __getitem__(self, k: int | slice) -> Segment | tuple[Segment, ...]:
        return tuple(self)[k]

    def __iter__(self) -> Iterator[Segment]:
        columns = (self.category, self.bbox, self.area, self.iscrowd, self.offsets[:-1], self.offsets[1:])
        for category, (x, y, width, height), area, iscrowd, low, high in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            yield Segment(
                category=category, bbox=(x, y, width, height), area=area, iscrowd=iscrowd, counts=self.counts[low:high]
            )
