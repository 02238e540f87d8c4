"""How pixels get classes where no network says so: naive Bayes over what can be counted in the training images.

Every pixel has a few codes, whole numbers such as its colour's bin or the part of the image that it lies in. How often
each class has each code is counted once; a pixel's scores are then

    log P(class | codes) = balance * log P(class) + sum over codes of log P(code | class) + constant

`balance` 1 is Bayes' rule, which leaves rare classes to frequent ones; 0 treats all classes alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

BINS = 16  # of each channel of CIELAB, a perceptual colour space
CELLS = 8  # the image is divided into so many rows and columns
COLOUR_AND_PLACE = {"colour": BINS**3, "place": CELLS**2}
BALANCES = (1.0, 0.5, 0.0)

Codes = Sequence[np.ndarray]  # int[h, w] each, one per table of the labeller


@dataclass(frozen=True, slots=True)
class Labeller:
    """What was counted, as logarithms."""

    prior: np.ndarray  # float32[classes]: balance * log P(class)
    tables: Mapping[str, np.ndarray]  # float32[codes, classes]: log P(code | class)

    def scores(self, codes: Codes) -> np.ndarray:
        """float32[classes, h, w]: log P(class | codes)."""
        tables = self.tables.values()
        joint = self.prior + sum(table[code] for table, code in zip(tables, codes, strict=True))
        return normalised(np.ascontiguousarray(joint.transpose(2, 0, 1)))


@dataclass(frozen=True, slots=True)
class Counts:
    """Of labelled pixels, added up over images."""

    tables: dict[str, np.ndarray]  # int64[codes, classes]

    @classmethod
    def none(cls, sizes: Mapping[str, int], classes: int) -> "Counts":
        return cls({name: np.zeros((size, classes), np.int64) for name, size in sizes.items()})

    def add(self, codes: Codes, truth: np.ndarray) -> None:
        for table, code in zip(self.tables.values(), codes, strict=True):
            known = truth < table.shape[1]
            both = code[known] * table.shape[1] + truth[known]
            table += np.bincount(both, minlength=table.size).reshape(table.shape)

    def labeller(self, balance: float) -> Labeller:
        """One pixel more of each kind than was seen, so that nothing is impossible (Laplace)."""
        likelihoods = {name: log_share(table + 1) for name, table in self.tables.items()}
        seen = next(iter(self.tables.values())).sum(axis=0)
        return Labeller(balance * log_share(seen + 1), likelihoods)


def log_share(counts: np.ndarray) -> np.ndarray:
    """Of the sum over the first axis."""
    share: np.ndarray = np.log(counts / counts.sum(axis=0)).astype(np.float32)
    return share


def normalised(scores: np.ndarray) -> np.ndarray:
    """Logarithms of probabilities that add up to 1 over the first axis."""
    shifted = scores - scores.max(axis=0)
    normal: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=0))
    return normal


def lab(image: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] RGB -> uint8[h, w, 3] CIELAB, each channel in 0..255."""
    converted: np.ndarray = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    return converted


def grey(image: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] RGB -> uint8[h, w]."""
    converted: np.ndarray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return converted


def colour_and_place(image: np.ndarray) -> Codes:
    """The codes of COLOUR_AND_PLACE."""
    bins = lab(image).astype(np.intp) * BINS // 256
    rows, columns = (np.arange(size) * CELLS // size for size in image.shape[:2])
    return (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2], rows[:, None] * CELLS + columns


def mean_iou(pairs: Iterable[tuple[np.ndarray, np.ndarray]], classes: int) -> float:
    """(predicted, true class ids) of several images: the mean over the classes that occur in either."""
    confusion = np.zeros((classes, classes), np.int64)
    for predicted, truth in pairs:
        known = truth < classes
        both = truth[known].astype(np.intp) * classes + predicted[known]
        confusion += np.bincount(both, minlength=confusion.size).reshape(confusion.shape)
    hits, union = confusion.diagonal(), confusion.sum(axis=0) + confusion.sum(axis=1) - confusion.diagonal()
    return float((hits[union > 0] / union[union > 0]).mean())
