"""Where a semantic map is wrong: of each image the pixels of each pair of true and predicted class that differ, and how
much is right of regions, by their size. A region is what touches, by its sides, in the truth and is of one class."""

from collections.abc import Sequence

import numpy as np
from skimage.measure import label

from pipelines.data.schema import IGNORE
from pipelines.metrics import sizes

CONFUSED = np.dtype([("truth_label", "i4"), ("label", "i4"), ("pixels", "i8")])


class PixelFailures:
    """`names` is the class table."""

    def __init__(self, names: Sequence[str]):
        self.names = tuple(names)
        self._confused: list[np.ndarray] = []  # one per image
        # By class and size: regions, those of which half or more is right, their pixels, those that are right.
        self.by_size = np.zeros((len(self.names), len(sizes.NAMES), 4), np.int64)

    def update(self, truth: np.ndarray, predicted: np.ndarray) -> None:
        """uint8[h, w] class ids or IGNORE."""
        known = truth != IGNORE
        wrong = known & (predicted != truth) & (predicted != IGNORE)
        pairs, pixels = np.unique(truth[wrong].astype(np.int32) * 256 + predicted[wrong], return_counts=True)
        rows = np.zeros(pairs.size, CONFUSED)
        rows["truth_label"], rows["label"] = np.divmod(pairs, 256)
        rows["pixels"] = pixels
        self._confused.append(rows)
        regions = label(np.where(known, truth.astype(np.int32) + 1, 0), background=0, connectivity=1)
        area = np.bincount(regions.ravel())
        right = np.bincount(regions[truth == predicted], minlength=area.size)
        category = np.zeros(area.size, np.int64)
        category[regions[known]] = truth[known]
        added = np.stack([np.ones(area.size, np.int64), 2 * right >= area, area, right], axis=-1)
        np.add.at(self.by_size, (category[1:], sizes.of(area[1:])), added[1:])

    def merge(self, other: "PixelFailures") -> None:
        if self.names != other.names:
            raise ValueError(f"cannot merge failures of {other.names} into {self.names}")
        self._confused += other._confused
        self.by_size += other.by_size

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """CONFUSED[n] of all images, and the image of each."""
        lengths = [len(rows) for rows in self._confused]
        return np.concatenate([np.zeros(0, CONFUSED), *self._confused]), np.repeat(np.arange(len(lengths)), lengths)
