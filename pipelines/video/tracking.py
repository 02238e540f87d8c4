"""Identities through the frames: each frame's instances are given to the tracks that they go on, or begin new ones.

Online, as in MaskTrack R-CNN (Yang et al. 2019) and ByteTrack (Zhang et al. 2022), in two rounds, each the best
assignment of all at once (the Hungarian method). First the tracks of the frame before, by how much their masks, moved
with the Then what is left may be one of those that were
lost just now or not long ago, by look, class and how far it can have come.
lost not long ago, by look, class and how far it can have come. A track's class is what most of its score was given
to, and its score is the mean of its frames', over `confirm` of them at least: what flashes up once is not believed.

Memory does not grow with the video: a track that was not seen for `memory` frames is forgotten.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from pipelines.video.detections import Detections
from pipelines.video.flow import Flow, warp
from pipelines.video.overlap import overlaps

NEVER = -1e6  # the worth of a pair that must not be
LEAST = 1e-6
SPEED = 0.05  # of the frame's diagonal: how far a thing may go in a frame in which it is not seen


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """The section `video.track`. Overlap counts 1 in the worth of a pair."""

    birth: float  # the least score that begins a track
    flow: bool  # masks move with it
    min_overlap: float  # IoU below which no track goes on
    look: float  # the weight of the cosine between two looks
    label: float  # of having the same class
    memory: int  # frames for which a lost track is remembered; 0 finds none again
    again: float  # the least cosine that finds a lost track again
    confirm: int  # frames


@dataclass(kw_only=True, slots=True)
class Alive:
    """A track while it may go on."""

    identity: int
    mask: np.ndarray  # bool[h, w] where it was last seen, moved on with the flow
    look: np.ndarray
    seen: int  # the frame in which it was last
    extent: float = 0.0  # its side at its largest, as a fraction of the frame's diagonal
    score: float = 0.0  # the sum over its frames
    frames: int = 0
    votes: dict[int, float] = field(default_factory=lambda: defaultdict(float))  # class -> score

    @property
    def label(self) -> int:
        return max(self.votes, key=lambda c: self.votes[c])

    @property
    def center(self) -> np.ndarray:
        return np.argwhere(self.mask).mean(axis=0) if self.mask.any() else np.zeros(2)


Worth = Callable[[list[Alive], Detections, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What a track was, all in all."""

    identity: int
    label: int
    score: float


class Tracker:
    """Frame by frame; `ended` fills with tracks that are forgotten, and `finish` gives all."""

    def __init__(self, options: Options):
        self.options = options
        self.flow = Flow() if options.flow else None
        self.alive: list[Alive] = []
        self.ended: list[Ended] = []
        self.frame = -1
        self.born = 0

    def step(self, image: np.ndarray, found: Detections) -> np.ndarray:
        """uint8[h, w, 3] and its detections -> int64[n]: each one's track, -1 for none."""
        self.frame += 1
        self._move(image)
        self._forget()
        identities = np.full(len(found), -1, np.int64)
        self._assign([t for t in self.alive if t.seen == self.frame - 1], found, identities, self._going_on)
        if self.options.memory:
            self._assign([t for t in self.alive if t.seen < self.frame], found, identities, self._coming_back)
        self._begin(found, identities)
        return identities

    def _assign(self, tracks: list[Alive], found: Detections, identities: np.ndarray, worth: Worth) -> None:
        """The pairs that are worth most together, of what has no track yet."""
        free = np.flatnonzero(identities < 0)
        values = worth(tracks, found, free)
        for row, column in zip(*linear_sum_assignment(values, maximize=True), strict=True):
            if values[row, column] > NEVER:
                self._see(tracks[row], found, int(free[column]))
                identities[free[column]] = tracks[row].identity

    def _begin(self, found: Detections, identities: np.ndarray) -> None:
        for k in np.flatnonzero(identities < 0).tolist():
            if found.scores[k] >= self.options.birth and not _covered(found.masks, k, identities):
                track = Alive(identity=self.born, mask=found.masks[k], look=found.looks[k], seen=self.frame)
                self.born += 1
                self.alive.append(track)
                self._see(track, found, k)
                identities[k] = track.identity

    def finish(self) -> list[Ended]:
        """All tracks, in the order of their births."""
        everything = [*self.ended, *map(self._end, self.alive)]
        return sorted(everything, key=lambda t: t.identity)

    def _move(self, image: np.ndarray) -> None:
        moved = None if self.flow is None else self.flow.step(image)
        if moved is not None:
            for track in self.alive:
                if track.seen == self.frame - 1:  # what is hidden moves with nothing that is seen
                    track.mask = warp(track.mask.astype(np.float32), moved) > 0.5

    def _forget(self) -> None:
        kept = [t for t in self.alive if self.frame - t.seen <= self.options.memory + 1]
        self.ended += [self._end(t) for t in self.alive if t not in kept]
        self.alive = kept

    def _end(self, track: Alive) -> Ended:
        score = track.score / max(track.frames, self.options.confirm)
        return Ended(identity=track.identity, label=track.label, score=score)

    def _see(self, track: Alive, found: Detections, k: int) -> None:
        score, look = float(found.scores[k]), found.looks[k]
        track.mask, track.seen = found.masks[k], self.frame
        mixed = track.look * track.frames + look if track.frames else look  # the mean so far
        track.look = mixed / max(float(np.linalg.norm(mixed)), LEAST)
        side = np.sqrt(np.count_nonzero(track.mask)) / np.hypot(*track.mask.shape)
        track.extent = max(track.extent, float(side))
        track.score += score
        track.frames += 1
        track.votes[int(found.labels[k])] += score

    def _going_on(self, tracks: list[Alive], found: Detections, free: np.ndarray) -> np.ndarray:
        """float64[tracks, free]: what each pair is worth. One that has changed its class must look as it did."""
        overlap = overlaps(np.array([t.mask for t in tracks]), found.masks[free])
        alike, same = _alike(tracks, found, free), _same(tracks, found, free)
        may = (overlap >= self.options.min_overlap) & ((same > 0) | (alike >= self.options.again))
        return np.where(may, overlap + self.options.look * alike + self.options.label * same, NEVER)

    def _coming_back(self, tracks: list[Alive], found: Detections, free: np.ndarray) -> np.ndarray:
        """The same, of tracks that were lost: the more alike and the nearer, the more it is worth."""
        alike, same = _alike(tracks, found, free), _same(tracks, found, free)
        reach = np.array([SPEED * (self.frame - t.seen) + t.extent for t in tracks])[:, None]
        far = np.array([[_distance(t, found.masks[k]) for k in free] for t in tracks]).reshape(alike.shape)
        may = (alike >= self.options.again) & (same > 0) & (far <= reach)
        return np.where(may, alike - self.options.label * far / np.maximum(reach, LEAST), NEVER)


def _alike(tracks: list[Alive], found: Detections, free: np.ndarray) -> np.ndarray:
    """The cosines of looks; 1 where nobody looks."""
    if not tracks or not found.looks.shape[1]:
        return np.ones((len(tracks), len(free)))
    alike: np.ndarray = np.stack([t.look for t in tracks]) @ found.looks[free].T
    return alike.astype(np.float64)


def _same(tracks: list[Alive], found: Detections, free: np.ndarray) -> np.ndarray:
    labels = np.array([t.label for t in tracks], np.int64)
    return np.asarray(labels[:, None] == found.labels[free], np.float64)


def _distance(track: Alive, mask: np.ndarray) -> float:
    """Between the two's centres, as a fraction of the diagonal."""
    return float(np.linalg.norm(track.center - np.argwhere(mask).mean(axis=0)) / np.hypot(*mask.shape))


def _covered(masks: np.ndarray, k: int, identities: np.ndarray) -> bool:
    """Whether half of the mask is that of an instance that has a track: the same thing, found twice."""
    there = masks[identities >= 0].any(axis=0) if (identities >= 0).any() else np.zeros_like(masks[k])
    return bool(np.count_nonzero(masks[k] & there) > 0.5 * np.count_nonzero(masks[k]))
