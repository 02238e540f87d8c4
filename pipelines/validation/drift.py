"""Do two splits look drawn from the same images? How far their distributions are apart, and how far chance puts them.

Small splits differ by chance: of 48 images, and more so of the objects in them, since those of one image come
together. So the images of both splits are shuffled as wholes, and what a random split of the same size reaches in one
shuffle of a hundred is said beside the distance. Nothing less counts as drift; no formula for the noise has to hold.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipelines.data.schema import SPLITS

SHUFFLES = 200
UNUSUAL = 0.99  # of the shuffles stay below what counts


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Of one split from the training split, as total variation."""

    distance: float
    chance: float  # what chance alone may well reach

    @property
    def proven(self) -> float:
        """The distance, or 0 where chance explains it."""
        return self.distance if self.distance > self.chance else 0.0


def total_variation(reference: np.ndarray, other: np.ndarray) -> float:
    """Between two histograms: 0 for equal proportions, 1 where nothing is shared."""
    if not reference.sum() or not other.sum():
        return float(reference.sum() != other.sum())
    return float(np.abs(reference / reference.sum() - other / other.sum()).sum() / 2)


def measure(reference: np.ndarray, other: np.ndarray) -> Drift:
    """Of two int[images, bins]; an empty split has none. The same numbers each time: the shuffles have a fixed seed."""
    if not len(reference) or not len(other):
        return Drift(distance=0.0, chance=0.0)
    rng, both = np.random.default_rng(0), np.concatenate([reference, other])
    total, size = both.sum(axis=0), min(len(reference), len(other))  # total variation is symmetric: draw the smaller
    reached = np.empty(SHUFFLES)
    for k in range(SHUFFLES):
        drawn = both[rng.choice(len(both), size, replace=False, shuffle=False)].sum(axis=0)
        reached[k] = total_variation(total - drawn, drawn)
    return Drift(
        distance=total_variation(reference.sum(axis=0), other.sum(axis=0)),
        chance=float(np.quantile(reached, UNUSUAL, method="higher")),
    )


def of_splits(bins: np.ndarray, splits: pd.Series) -> dict[str, Drift]:
    """int[images, bins] and each image's split -> every split's drift from the training split."""
    train = bins[splits == "train"]
    none = Drift(distance=0.0, chance=0.0)
    return {split: none if split == "train" else measure(train, bins[splits == split]) for split in SPLITS}


def image_bins(images: pd.DataFrame) -> np.ndarray:
    """int32[images, bins]: the one bin of each image. Height and width each to the nearest power of two, so that
    the usual sizes lie in the middle of a bin and not at its border."""
    sides = np.log2(np.maximum(images[["height", "width"]].to_numpy(np.float64), 1)).round().astype(int)
    return _counts(np.arange(len(images)), sides[:, 0] * 64 + sides[:, 1], len(images))


def object_bins(images: pd.DataFrame, segments: pd.DataFrame) -> np.ndarray:
    """int32[images, bins]: how many instances of each image have which area, in bins that double."""
    whole = segments.loc[~segments["iscrowd"], "measured_area"].to_numpy(np.float64)
    owners = np.repeat(np.arange(len(images)), images["instances"])  # both tables go through the images in order
    return _counts(owners, np.log2(np.maximum(whole, 1)).astype(int), len(images))


def _counts(rows: np.ndarray, keys: np.ndarray, height: int) -> np.ndarray:
    """int32[height, different keys]: how often each key is in each row."""
    known, at = np.unique(keys, return_inverse=True)
    return (
        np.bincount(rows * len(known) + at, minlength=height * len(known)).reshape(height, len(known)).astype(np.int32)
    )
