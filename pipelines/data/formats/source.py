"""What every format gives, a scan of its source and then one record per item, and what formats share."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, cast

import numpy as np
from scipy import ndimage

from pipelines.data import decode, rle
from pipelines.data.faults import Fault, FaultError, Faults
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record, Segment, Split
from pipelines.data.tree import Tree
from pipelines.errors import DataError

Box = tuple[slice, slice]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset comes from, as params.yaml says it."""

    tree: Tree | None  # shapes has none
    splits: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    shapes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Tree:
        if self.tree is None:
            raise DataError("dataset.root: none is named", do="set dataset.root in params.yaml")
        return self.tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One image that is to be read. Formats add what they need to know of it; all of it must be plain values, since
    an item whose values and files have not changed is not read again."""

    id: str  # unique in the dataset
    split: Split | None  # None where none is published
    files: tuple[str, ...]  # all that it is read from, within the root; the image first
    group: str = ""  # of images that must not straddle a split: a video, a scene; "" for an image on its own

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.files[0] if self.files else self.id


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """A source at first sight: its classes, and what is still to be read."""

    classes: tuple[ClassInfo, ...]
    items: Sequence[Any]  # of Item
    read: Callable[[Any], Record]  # in another process: a function of a module, and plain arguments
    labels: Callable[[Any], frozenset[int]] | None = None  # the classes of an item, without its image: to stratify by
    faults: Sequence[Fault] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatSpec:
    scan: Callable[[Source], Scan]
    isolated: bool  # reads files from outside, so only in processes that may die
    holds: str  # what has to be in dataset.root, as the README says it


def key_of(name: str) -> str:
    """A file's name without its suffix: what an image and its labels share."""
    return str(PurePosixPath(name).with_suffix(""))


def images_under(tree: Tree, folder: str, faults: Faults, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, str]:
    """Key within the folder -> name, of every image below it; what is no image is a fault."""
    found: dict[str, str] = {}
    folded: dict[str, str] = {}
    for name in tree.under(folder):
        key = key_of(name)[len(folder) + 1 if folder else 0 :]
        if PurePosixPath(name).suffix.lower() not in suffixes:
            faults.add("suffix-unknown", name, f"suffix not allowed (allowed: {', '.join(suffixes)})")
        elif key in found:
            faults.add("name-clash", name, f"has the same name as {found[key]}")
        elif key.casefold() in folded:
            other = folded[key.casefold()]
            faults.add("name-clash", name, f"differs from {other} in case only, which some disks cannot hold", key)
        else:
            found[key] = folded[key.casefold()] = name
    return found


def record(
    item: Item,
    picture: decode.Picture,
    semantic: np.ndarray,
    segments: Sequence[Segment] = (),
    mended: Sequence[Fault] = (),
    *,
    turned: bool | None = None,
) -> Record:
    """The record of an image and its labels, in the orientation that fits them."""
    height, width = semantic.shape
    faults = Faults()
    with faults.of(item.name, item.id):
        fitted = picture.fitting(height, width, turned=turned)
    faults.check(item.id)
    changes = [Fault(kind, item.name, reason, item.id) for kind, reason in fitted.changes]
    return Record(
        id=item.id,
        split=item.split or "train",
        image=fitted.data,
        format=fitted.format,
        height=height,
        width=width,
        semantic=semantic,
        segments=tuple(segments),
        mended=(*changes, *mended),
        pixels=fitted.pixels,
    )


def labelled(labels: np.ndarray) -> Iterator[tuple[int, Box]]:
    """Every label from 1 on that is there, with the tight rows and columns around it."""
    return ((k, box) for k, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None)


def segment(labels: np.ndarray, label: int, box: Box, *, category: int, iscrowd: bool = False) -> Segment:
    """The pixels that have this label. Looks at the box's columns alone: there may be hundreds in a large image."""
    return segment_within(labels[box] == label, box, labels.shape, category=category, iscrowd=iscrowd)


def segment_within(
    mask: np.ndarray, box: Box, shape: tuple[int, ...], *, category: int, iscrowd: bool = False
) -> Segment:
    """The segment whose pixels are those of `mask`, which lies at `box` of an image of this shape, and touches all four
    of its sides."""
    rows, columns = box
    height, width = shape
    padded = np.zeros((height, columns.stop - columns.start), bool)
    padded[rows] = mask
    counts = rle.encode(padded)
    after = height * (width - columns.stop)
    if counts.size % 2 == 0 and after:
        counts = np.append(counts, np.uint32(0))
    counts[0] += height * columns.start
    counts[-1] += after
    return Segment(
        category=category,
        bbox=(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start),
        area=rle.area(counts),
        iscrowd=iscrowd,
        counts=counts,
    )


def segment_of(mask: np.ndarray, *, category: int, iscrowd: bool = False) -> Segment | None:
    """The segment of a whole mask, bool[h, w]; None where it is empty."""
    x, y, width, height = rle.bbox(mask)
    if not width:
        return None
    box = (slice(y, y + height), slice(x, x + width))
    return segment_within(mask[box], box, mask.shape, category=category, iscrowd=iscrowd)


def segment_of_counts(counts: np.ndarray, height: int, *, category: int, iscrowd: bool = False) -> Segment | None:
    """The segment that has these run lengths; None where they set no pixel."""
    box, area = rle.box(counts, height), rle.area(counts)
    return Segment(category=category, bbox=box, area=area, iscrowd=iscrowd, counts=counts) if area else None


def paint(segments: Sequence[Segment], height: int, width: int, *, background: int) -> tuple[np.ndarray, list[Segment]]:
    """The semantic map of segments that may overlap, and the segments with the one in front first: the smaller one,
    since an object within another would be lost behind it; crowds are behind all."""
    front_first = sorted(segments, key=lambda s: (s.iscrowd, s.area))
    semantic = np.full((height, width), background, np.uint8)
    for one in reversed(front_first):
        x, y, w, h = one.bbox
        box = (slice(y, y + h), slice(x, x + w))
        semantic[box][rle.decode(one.counts, height, width)[box]] = one.category
    return semantic, front_first


def split_named(name: str) -> Split | None:
    """train2017, gtFine_val, testing -> the split that a published name means; None for trainval, which means two."""
    lowered = name.lower()
    found = [split for split in SPLITS if lowered.startswith(split) or lowered.endswith(split)]
    return cast(Split, found[0]) if len(found) == 1 else None


def present(semantic: np.ndarray) -> frozenset[int]:
    """The classes that a semantic map shows."""
    return frozenset(np.unique(semantic).tolist()) - {IGNORE}


def listed_splits(tree: Tree) -> dict[str, Split]:
    """Ids by the lists splits/{train,val,test}.txt in the root, an id per line: how ingest writes them down."""
    found: dict[str, Split] = {}
    for split in SPLITS:
        name = f"splits/{split}.txt"
        if name in tree:
            try:
                text = tree.files.read(name).decode(errors="replace")
            except FaultError as error:
                raise DataError(f"{name}: {error.reason}", do="restore the list, or remove it") from None
            found.update({line.strip(): split for line in text.splitlines() if line.strip()})  # type: ignore[misc]
    return found
