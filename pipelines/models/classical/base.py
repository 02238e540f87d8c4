"""What a classical method is: how it cuts one image into parts, and which of its settings are tried."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_matrix

from pipelines.models.classical import labeller
from pipelines.models.classical.labeller import Codes, normalised


class Method(ABC):
    """Codes of the pixels, from which the labeller has their scores; then those scores again, refined by what the
    method sees. It keeps nothing: a pure function of the image, the scores and the setting."""

    settings: ClassVar[tuple[Any, ...]]  # what is tried on training images; the best one is kept
    longest: ClassVar[int]  # pixels of an image's longer side: a larger one is worked on at this size
    codes: ClassVar[dict[str, int]] = labeller.COLOUR_AND_PLACE  # and how many values each has

    def encode(self, image: np.ndarray, setting: Any) -> Codes:
        return labeller.colour_and_place(image)

    @abstractmethod
    def refine(self, image: np.ndarray, scores: np.ndarray, setting: Any) -> np.ndarray:
        """uint8[h, w, 3] RGB, log P(class) float32[classes, h, w] -> such scores again."""


class Levels(Method):
    """One that sorts pixels into levels which mean the same in every image: what class a level is, is counted."""

    longest = 1024

    @abstractmethod
    def levels(self, image: np.ndarray, setting: Any) -> np.ndarray:
        """int[h, w], below `codes["level"]`."""

    def encode(self, image: np.ndarray, setting: Any) -> Codes:
        return (self.levels(image, setting),)

    def refine(self, image: np.ndarray, scores: np.ndarray, setting: Any) -> np.ndarray:
        return scores


class Regions(Method):
    """One that cuts the image into regions: all pixels of a region get their mean scores, and so one class."""

    longest = 320

    @abstractmethod
    def regions(self, image: np.ndarray, setting: Any) -> np.ndarray:
        """int[h, w]: from 0, with or without gaps."""

    def refine(self, image: np.ndarray, scores: np.ndarray, setting: Any) -> np.ndarray:
        return averaged(scores, self.regions(image, setting))


class Contours(Method):
    """One that parts a foreground from its background: each class in turn against the rest.

    A pixel goes to the class that claims it; where several do, or none, the scores decide between those, or all. The
    largest class is the background of all others and claims what they leave.
    """

    longest = 240
    CLAIM = 8.0  # in favour of a claim: a factor of 3000 in probability
    SMALLEST, MOST = 0.002, 16  # classes with less of the image, or beyond the largest, are left as they are

    @abstractmethod
    def claim(self, image: np.ndarray, scores: np.ndarray, of: int, setting: Any) -> np.ndarray:
        """bool[h, w]: what the class `of` is found to cover."""

    def refine(self, image: np.ndarray, scores: np.ndarray, setting: Any) -> np.ndarray:
        areas = np.bincount(scores.argmax(axis=0).ravel(), minlength=len(scores)) / scores[0].size
        largest, *others = (k for k in np.argsort(-areas, kind="stable")[: self.MOST] if areas[k] >= self.SMALLEST)
        claims = np.zeros(scores.shape, bool)
        for k in others:
            claims[k] = self.claim(image, scores, int(k), setting)
        claims[largest] = ~claims.any(axis=0)
        return normalised(scores + np.float32(self.CLAIM) * claims)


def averaged(scores: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Each region's mean scores, at each of its pixels."""
    _, inverse, sizes = np.unique(regions, return_inverse=True, return_counts=True)
    inverse, flat = inverse.ravel(), scores.reshape(len(scores), -1).T
    pixels = np.arange(len(inverse))
    member = csr_matrix((np.ones(len(inverse), np.float32), (inverse, pixels)), shape=(len(sizes), len(inverse)))
    means = normalised((member @ flat / sizes[:, None]).astype(np.float32).T)
    return means[:, inverse].reshape(scores.shape)
