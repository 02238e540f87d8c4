"""What the manifest says of the pixels: exact integer sums per image, so that neither order nor workers change it.

Every row of a shard carries its own measures, so the statistics of a dataset are sums over rows that nobody has to
decode again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from pipelines.data.schema import IGNORE, SPLITS, Record, Split
from pipelines.errors import DataError

PIECE = 1 << 22  # pixels that OpenCV counts at once: in float32, exact up to 2^24


@dataclass(frozen=True, kw_only=True, slots=True)
class Measures:
    """One record's share."""

    split: Split
    size: tuple[int, int]
    pixels: np.ndarray  # int64[256]: of each class id, IGNORE included
    instances: np.ndarray  # int64[256]: of each class id, crowds excluded
    sums: np.ndarray  # int64[2, 3]: of R, G, B and of their squares


def measure(record: Record) -> Measures:
    return Measures(
        split=record.split,
        size=(record.height, record.width),
        pixels=histogram(record.semantic),
        instances=np.bincount([s.category for s in record.segments if not s.iscrowd], minlength=256).astype(np.int64),
        sums=channel_sums(decode(record)),
    )


def histogram(values: np.ndarray) -> np.ndarray:
    """uint8[...] -> int64[256]."""
    flat, total = values.reshape(1, -1), np.zeros(256, np.int64)
    for start in range(0, flat.size, PIECE):
        counts = cv2.calcHist([flat[:, start : start + PIECE]], [0], None, [256], [0, 256])
        total += counts.ravel().astype(np.int64)
    return total


def channel_sums(image: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] -> int64[2, 3]: the sums of each channel, and of its squares. OpenCV sums in doubles, which are
    exact for as many pixels as a decoder here may give."""
    sums = cv2.sumElems(image)[:3]
    squares = [cv2.norm(channel, cv2.NORM_L2SQR) for channel in cv2.split(image)]
    return np.array([sums, squares]).round().astype(np.int64)


def decode(record: Record) -> np.ndarray:
    """uint8[h, w, 3] RGB of a record: its pixels where it has them, else of its bytes."""
    if record.pixels is not None:
        return record.pixels
    shape, data = (record.height, record.width, 3), np.frombuffer(record.image, np.uint8)
    if record.format == "raw":
        image = data.reshape(shape) if data.size == np.prod(shape) else None
    else:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if image is None or image.shape != shape:
        found = "no image" if image is None else f"{image.shape[1]}x{image.shape[0]}"
        raise DataError(f"{record.id}: the encoded image decodes to {found}, expected {record.width}x{record.height}")
    return image


@dataclass(kw_only=True, slots=True)
class Statistics:
    """The sum of all `Measures` seen."""

    images: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    instances: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    height: int = 0
    width: int = 0
    train_pixels: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    train_instances: np.ndarray = field(default_factory=lambda: np.zeros(256, np.int64))
    train_sums: np.ndarray = field(
        default_factory=lambda: np.zeros((2, 3), np.int64)
    )  # nothing is normalised by others

    def update(self, seen: Measures) -> None:
        self.images[seen.split] += 1
        self.instances[seen.split] += int(seen.instances.sum())
        self.height, self.width = max(self.height, seen.size[0]), max(self.width, seen.size[1])
        if seen.split == "train":
            self.train_pixels += seen.pixels
            self.train_instances += seen.instances
            self.train_sums += seen.sums

    def add(self, other: "Statistics") -> None:
        for split in SPLITS:
            self.images[split] += other.images[split]
            self.instances[split] += other.instances[split]
        self.height, self.width = max(self.height, other.height), max(self.width, other.width)
        self.train_pixels += other.train_pixels
        self.train_instances += other.train_instances
        self.train_sums += other.train_sums

    def pixels_per_class(self, classes: int) -> tuple[int, ...]:
        return tuple(self.train_pixels[:classes].tolist())

    def instances_per_class(self, classes: int) -> tuple[int, ...]:
        return tuple(self.train_instances[:classes].tolist())

    @property
    def ignored_pixels(self) -> int:
        return int(self.train_pixels[IGNORE])

    def mean_std(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Of R, G, B in 0..1; 0 and 1 where there is no training pixel, which normalises nothing."""
        n = int(self.train_pixels.sum())
        if n == 0:
            return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        sums, squares = self.train_sums.tolist()
        # n * squares - sum^2 in Python's unbounded integers: no cancellation, whatever the size of the dataset.
        deviations = [(n * q - s * s) ** 0.5 / n / 255 for s, q in zip(sums, squares, strict=True)]
        return _three([s / n / 255 for s in sums]), _three(deviations)


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue
