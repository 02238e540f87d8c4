"""Masks that are given once and followed through the frames, without any training: semi-supervised video object
segmentation on top of an image model.

Two messengers bring each object's mask from what is known to the next frame. Flow carries the frame before, pixel by
pixel, and is believed where it leads there and back again. Resemblance of features carries the frame in which the
object was given and the last few, and needs no path between: it is what finds an object again that was hidden. Their
mean, by how far flow is believed, is each object's probability; all objects' are made one as in STM (Oh et al. 2019):
by the odds, with the ground as what no object is. In the end, an object whose mask all but is one of the image
model's segments is that segment: this is what keeps outlines sharp over hundreds of frames.

Memory does not grow with the video: a few frames' features are kept, and one frame's probabilities.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from pipelines.video import affinity
from pipelines.video.flow import Flow, warp

LEAST = 1e-4  # of a probability, so that odds are finite


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The section `video.propagate`."""

    flow: bool
    memory: int  # last frames whose features are kept, beside those in which objects were given; 0: no features
    radius: int  # places of the feature map
    most: int
    temperature: float
    snap: float  # the IoU from which a segment of the image model is the object; above 1: never


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
        self.features = features if options.memory else None
        self.flow = Flow() if options.flow else None
        self.ids: tuple[int, ...] = ()
        self.probabilities = np.zeros((1, 0, 0), np.float32)  # of the ground and each object
        self.given: list[affinity.Known] = []
        self.recent: deque[affinity.Known] = deque(maxlen=max(options.memory, 1))
        self.seen: Tensor | None = None  # this frame's features

    def step(self, image: np.ndarray) -> np.ndarray:
        """uint8[h, w, 3] -> uint8[h, w]: the objects in this frame, by their ids, 0 for none."""
        self.seen = None if self.features is None else self.features(image)
        moved = None if self.flow is None else self.flow.step(image)
        if self.ids:
            found = self._carried(image.shape[:2], moved)
            if self.segments is not None:
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
        self.probabilities = np.stack([now == i for i in (0, *ids)]).astype(np.float32)
        self._remember(self.given)
        return now

    def _carried(self, size: tuple[int, ...], moved: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """float32[k, h, w]: the probabilities of this frame."""
        warped = trust = None
        if moved is not None:
            back, trust = moved
            warped = np.stack([warp(p, back) for p in self.probabilities])
        if self.seen is None:
            return self.probabilities if warped is None else warped
        options = self.options
        labels, _ = affinity.carry(
            self.seen,
            [*self.given, *self.recent],
            radius=options.radius,
            most=options.most,
            temperature=options.temperature,
        )
        alike = np.stack([cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in labels.numpy()])
        if warped is None or trust is None:
            return aggregate(alike[1:])
        return aggregate(trust * warped[1:] + (1 - trust) * alike[1:])

    def _snapped(self, found: np.ndarray, segments: Sequence[np.ndarray]) -> np.ndarray:
        """Each object that all but is a segment becomes it."""
        ids = found.argmax(axis=0)
        objects = found[1:].copy()
        for k in range(1, len(found)):
            mask = ids == k
            best = max(segments, key=lambda s: overlap(mask, s), default=None)
            if best is not None and overlap(mask, best) >= self.options.snap:
                objects[k - 1] = (objects[k - 1] + 2 * best) / 3
        return aggregate(objects)

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


def aggregate(objects: np.ndarray) -> np.ndarray:
    """Probabilities of each object on its own, float32[k, h, w] -> of the ground and of each, that sum to 1."""
    ground = np.prod(1 - objects, axis=0, keepdims=True)
    each = np.clip(np.concatenate([ground, objects]), LEAST, 1 - LEAST)
    odds = each / (1 - each)
    found: np.ndarray = (odds / odds.sum(axis=0)).astype(np.float32)
    return found


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 0.0
