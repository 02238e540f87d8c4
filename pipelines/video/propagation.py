"""Masks that are given once and followed through the frames, without any training: semi-supervised video object
segmentation on top of an image model.

Resemblance of features carries the labels of the frame in which an object was given and of the last few: coarse, and
unable to drift for long. Optical flow may carry the frame before as well, pixel by pixel: exact, and unable to let go
of what is hidden or left behind; then what both say counts, and their probabilities are multiplied. An object whose
mask all but is one of the image model's segments may be made that segment, and one that is nowhere may be found in a
segment that no object has and that looks as it did. What each is worth, docs/video.md tells.

Memory does not grow with the video: a few frames' features are kept, and one frame's probabilities.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from pipelines.video import affinity
from pipelines.video.detections import looks
from pipelines.video.flow import Flow, warp
from pipelines.video.overlap import overlaps

LEAST = 0.02  # of a probability: what one messenger says is never beyond the other
TAKEN = 0.2  # of a segment: what objects cover more of is one of them


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The section `video.propagate`."""

    flow: bool
    memory: int  # last frames whose features are kept, beside those in which objects were given; 0: no features
    finer: int  # times that the feature map is enlarged
    radius: int  # places of it
    most: int
    temperature: float
    snap: float | None  # the IoU from which a segment of the image model is the object; None: never
    again: float | None  # the cosine of two looks from which a segment is an object that was lost; None: never

    @property
    def asks_model(self) -> bool:
        return self.snap is not None or self.again is not None


class Propagator:
    """Frame by frame: `step`, and `give` where masks become known."""

    def __init__(
        self,
        options: Options,
        *,
        features: Callable[[np.ndarray], Tensor] | None = None,
        segments: Callable[[np.ndarray], Sequence[np.ndarray]] | None = None,
    ):
        """`features` float32[c, h, w] of a frame; `segments` bool[h, w] masks of a frame."""
        self.options, self.segments = options, segments
        self.features = features
        self.flow = Flow() if options.flow else None
        self.ids: tuple[int, ...] = ()
        self.probabilities = np.zeros((1, 0, 0), np.float32)  # of the ground and each object
        self.given: list[affinity.Known] = []
        self.recent: deque[affinity.Known] = deque(maxlen=max(options.memory, 1))
        self.looks: dict[int, np.ndarray] = {}  # of each object, where it was given
        self.seen: Tensor | None = None  # this frame's features, float32[c, h, w]

    def step(self, image: np.ndarray) -> np.ndarray:
        """uint8[h, w, 3] -> uint8[h, w]: the objects in this frame, by their ids, 0 for none."""
        self.seen = None if self.features is None else _finer(self.features(image), self.options.finer)
        moved = None if self.flow is None else self.flow.step(image)
        if self.ids:
            found = self._carried(image.shape[:2], moved)
            if self.segments is not None and self.options.asks_model:
                found = self._snapped(found, self.segments(image))
            self.probabilities = found
            self._remember(self.recent)
        return self._map(image.shape[:2])

    def give(self, labels: np.ndarray, given: Sequence[int]) -> np.ndarray:
        """The masks of some objects in the frame of the last step, [h, w] of ids -> the frame's map with them."""
        before = self._map(labels.shape)
        now = np.where(np.isin(labels, given), labels, before).astype(np.uint8)
        ids = tuple(sorted({*self.ids, *map(int, given)}))
        self.recent = deque((self._extended(k, ids) for k in self.recent), maxlen=self.recent.maxlen)
        self.given = [self._extended(k, ids) for k in self.given]
        self.ids = ids
        self.looks |= dict(zip(given, looks(np.stack([labels == i for i in given]), self.seen), strict=True))
        self.probabilities = np.stack([now == i for i in (0, *ids)]).astype(np.float32)
        self._remember(self.given)
        return now

    def _carried(self, size: tuple[int, ...], moved: np.ndarray | None) -> np.ndarray:
        """float32[k, h, w]: the probabilities of this frame."""
        found = np.ones((len(self.ids) + 1, *size), np.float32)
        if moved is not None:
            found *= np.stack([warp(p, moved) for p in self.probabilities]).clip(LEAST, 1)
        if self.seen is not None and self.options.memory:
            labels = affinity.carry(
                self.seen,
                [*self.given, *self.recent],
                radius=self.options.radius,
                most=self.options.most,
                temperature=self.options.temperature,
            )
            alike = [cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in labels.numpy()]
            found *= np.stack(alike).clip(LEAST, 1)
        elif moved is None:
            found = self.probabilities
        shares: np.ndarray = found / found.sum(axis=0)
        return shares

    def _snapped(self, found: np.ndarray, segments: Sequence[np.ndarray]) -> np.ndarray:
        """Each object that all but is a segment becomes it, and each that is nowhere one that looks like it."""
        ids, masks = found.argmax(axis=0), np.array(segments, bool).reshape(-1, *found.shape[1:])
        objects = found[1:].copy()
        if self.options.snap is not None:
            overlap = overlaps(np.stack([ids == k for k in range(1, len(found))]), masks)
            for row, k in zip(*linear_sum_assignment(overlap, maximize=True), strict=True):
                if overlap[row, k] >= self.options.snap:
                    objects[row] = masks[k]
        for row, k in self._again(ids, masks):
            objects[row] = masks[k]
        objects *= 1 / np.maximum(objects.sum(axis=0), 1)  # where two claim a pixel
        return np.concatenate([1 - objects.sum(axis=0, keepdims=True), objects])

    def _again(self, ids: np.ndarray, masks: np.ndarray) -> Iterator[tuple[int, int]]:
        """Objects without a pixel, and the segments that they are."""
        lost = [row for row in range(len(self.ids)) if not (ids == row + 1).any()]
        covered = (masks & (ids > 0)).sum(axis=(1, 2)) > TAKEN * masks.sum(axis=(1, 2))
        free = np.flatnonzero(~covered)
        if self.options.again is not None and self.seen is not None and lost and free.size:
            alike = np.stack([self.looks[self.ids[row]] for row in lost]) @ looks(masks[free], self.seen).T
            for i, j in zip(*linear_sum_assignment(alike, maximize=True), strict=True):
                if alike[i, j] >= self.options.again:
                    yield lost[i], int(free[j])

    def _remember(self, where: "list[affinity.Known] | deque[affinity.Known]") -> None:
        if self.seen is not None:
            size = (self.seen.shape[2], self.seen.shape[1])
            small = [cv2.resize(p, size, interpolation=cv2.INTER_AREA) for p in self.probabilities]
            where.append((self.seen, torch.from_numpy(np.stack(small))))

    def _extended(self, known: affinity.Known, ids: tuple[int, ...]) -> affinity.Known:
        """The same with rows for objects that are new, and nowhere in it."""
        features, labels = known
        wider = labels.new_zeros((len(ids) + 1, *labels.shape[1:]))
        wider[[0, *(ids.index(i) + 1 for i in self.ids)]] = labels
        return features, wider

    def _map(self, size: tuple[int, ...]) -> np.ndarray:
        if not self.ids:
            return np.zeros(size, np.uint8)
        found: np.ndarray = np.array([0, *self.ids], np.uint8)[self.probabilities.argmax(axis=0)]
        return found


def _finer(features: Tensor, times: int) -> Tensor:
    if times == 1:
        return features
    return F.normalize(F.interpolate(features[None], scale_factor=times, mode="bilinear")[0], dim=0)
