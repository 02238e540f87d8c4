"""The dataset as every stage sees it: classes, one record per image, and the manifest that describes them all."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from pipelines.data.faults import Fault

IGNORE = 255  # the value of ignored (void) pixels in every semantic map; class ids are 0..254
SPLITS = ("train", "val", "test")
Split = Literal["train", "val", "test"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassInfo:
    """One row of the class table; its position in the table is the class id."""

    name: str
    color: tuple[int, int, int]
    isthing: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One instance of a thing class (or a crowd of them). Stuff needs none: the semantic map says it all."""

    category: int  # index in the class table
    bbox: tuple[int, int, int, int]  # x, y, width, height: the tight box around the mask
    area: int  # pixels
    iscrowd: bool
    counts: np.ndarray  # uint32[n]: run lengths in column-major order, zeros first, as in COCO

    def __post_init__(self) -> None:
        if self.counts.dtype != np.uint32 or self.counts.ndim != 1:
            raise ValueError(f"counts must be uint32[n], got {self.counts.dtype}{list(self.counts.shape)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One image with all that is known of it.

    Segments may overlap each other (as COCO's do), the one in front first; where they do not, painting them over the
    semantic map's stuff gives the panoptic map (`pipelines.data.panoptic`).
    """

    id: str  # unique in the dataset: the path within it, without suffix, for published formats
    split: Split
    image: bytes | memoryview  # encoded, as published wherever it can be used as it is; or decoded, uint8[h, w, 3]
    format: str  # "png", "jpeg", or "raw" for decoded RGB
    height: int
    width: int
    semantic: np.ndarray  # uint8[height, width]: class ids, IGNORE where nothing is known
    segments: tuple[Segment, ...] = ()
    mended: tuple[Fault, ...] = ()  # what was changed while it was read
    pixels: np.ndarray | None = None  # uint8[height, width, 3] RGB, where whoever made the record has decoded it

    def __post_init__(self) -> None:
        if self.semantic.shape != (self.height, self.width) or self.semantic.dtype != np.uint8:
            raise ValueError(
                f"{self.id}: the semantic map must be uint8[{self.height}, {self.width}], "
                f"got {self.semantic.dtype}{list(self.semantic.shape)}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardInfo:
    """One Arrow file of the dataset."""

    path: str  # relative to the manifest, or to the store
    split: Split
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """`dataset.json`: what the shards hold."""

    name: str
    format: str
    hash: str  # sha256 over the class table and the shards' hashes: the dataset's identity
    classes: tuple[ClassInfo, ...]
    images: dict[str, int]  # per split
    instances: dict[str, int]  # per split, crowds excluded
    pixels_per_class: tuple[int, ...]  # of the training split
    instances_per_class: tuple[int, ...]  # of the training split, crowds excluded
    ignored_pixels: int  # of the training split
    mean: tuple[float, float, float]  # of the training split's pixels, 0..1
    std: tuple[float, float, float]
    max_size: tuple[int, int]  # largest height and width over all splits
    shards: tuple[ShardInfo, ...]
    store: str = ""  # where the shards are, if not beside the manifest: the URI of a bucket
    ignore: int = IGNORE
    version: int = field(default=1)

    @property
    def things(self) -> tuple[int, ...]:
        return tuple(i for i, c in enumerate(self.classes) if c.isthing)

    @property
    def stuff(self) -> tuple[int, ...]:
        return tuple(i for i, c in enumerate(self.classes) if not c.isthing)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> "Manifest":
        classes = tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in raw["classes"])
        shards = tuple(ShardInfo(**s) for s in raw["shards"])
        tuples = ("pixels_per_class", "instances_per_class", "mean", "std", "max_size")
        return cls(**{**raw, **{k: tuple(raw[k]) for k in tuples}, "classes": classes, "shards": shards})
