"""What every format gives, a scan of its source and then one record per item, and what formats share."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast

import numpy as np
from scipy import ndimage

from pipelines.data import decode, rle
from pipelines.data.faults import Fault, FaultError, Faults
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record, Segment, Split
from pipelines.data.tree import Tree
from pipelines.errors import DataError, bounded

Box = tuple[slice, slice]
Readers = dict[str, Callable[[], Any]]  # of an item's files, by name
NAMED = re.compile(r"(?<![^\W_])(train|val|test)(?:ing|idation)?\d*(?![^\W_])")  # as a word, beside _ or a mark
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# Pictures as well, which are not read.
OTHER_SUFFIXES = (".gif", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".jfif", ".tga", ".ppm", ".pgm", ".exr", ".dng")


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


AnyItem = TypeVar("AnyItem", bound=Item)


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


def images_under(
    tree: Tree, folder: str, faults: Faults, suffixes: tuple[str, ...] = IMAGE_SUFFIXES, *, start: str = ""
) -> dict[str, str]:
    """Key within the folder, after `start` -> name, of every image below it; what is no image is a fault. A key has to
    be the image's id, or `start` make it so."""
    named = []
    for name in tree.under(folder):
        if PurePosixPath(name).suffix.lower() in suffixes:
            named.append((start + key_of(name)[len(folder) + 1 if folder else 0 :], name))
        else:
            faults.add("suffix-unknown", name, f"suffix not allowed (allowed: {', '.join(suffixes)})")
    return by_key(named, faults)


def by_key(
    named: Iterable[tuple[str, str]], faults: Faults, *, identity: Callable[[str, str], str] = lambda key, name: key
) -> dict[str, str]:
    """Key -> name. Where several names have one key, or keys that differ in case only, nobody knows which is meant, and
    none is kept. `identity`: key, name -> the image's id."""
    folded: dict[str, list[tuple[str, str]]] = {}
    for key, name in named:
        folded.setdefault(key.casefold(), []).append((key, name))
    found: dict[str, str] = {}
    for alike in folded.values():
        if len(alike) == 1:
            found.update(alike)
            continue
        for key, name in alike:
            twin, other = next((k, n) for k, n in alike if n != name)
            same = f"has the same name as {other}"
            said = same if twin == key else f"differs from {other} in case only, which some disks cannot hold"
            faults.add("name-clash", name, said, identity(key, name))
    return found


def clashing(faults: Iterable[Fault]) -> set[str]:
    """The images of which it was said that nobody knows which file is meant: there is no more to say of them."""
    return {fault.item for fault in faults if fault.kind == "name-clash"}


def once(named: Iterable[tuple[str, AnyItem]], faults: Faults) -> list[AnyItem]:
    """The items that are named once. Where two annotations name one, nobody knows which is right: none is kept."""
    folded: dict[str, list[tuple[str, AnyItem]]] = {}
    for file, item in named:
        folded.setdefault(item.id.casefold(), []).append((file, item))
    for (first, kept), *others in folded.values():
        for file, item in others:
            faults.add("name-clash", file, f"{item.name} is there twice, also as {kept.name} in {first}", item.id)
            if item.id != kept.id:
                faults.add("name-clash", first, f"{kept.name} is there twice, also as {item.name} in {file}", kept.id)
    return [alike[0][1] for alike in folded.values() if len(alike) == 1]


def opened(item: Item, readers: Readers) -> list[Any]:
    """What each file of the item holds: every one is tried before the first fault is
    raised."""
    faults, found = Faults(), []
    for name, read in readers.items():
        with faults.of(name, item.id):
            found.append(read())
    faults.check(item.id)
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
    """train2017, gtFine_val, testing -> the split that a published name means, as a word of it; None for
    trainval, which means two, and for oval."""
    found = {match[1] for match in NAMED.finditer(name.lower())}
    return cast(Split, found.pop()) if len(found) == 1 else None


def present(semantic: np.ndarray) -> frozenset[int]:
    """The classes that a semantic map shows."""
    return frozenset(np.unique(semantic).tolist()) - {IGNORE}


def listed_splits(tree: Tree) -> dict[str, Split]:
    """Ids by the lists splits/{train,val,test}.txt in the root, an id per line: how ingest writes them down."""
    found: dict[str, Split] = {}
    for split in cast("tuple[Split, ...]", SPLITS):
        name = f"splits/{split}.txt"
        if name in tree:
            try:
                text = tree.files.read(name).decode("utf-8-sig", errors="replace")
            except FaultError as error:
                raise DataError(f"{name}: {error.reason}", do="restore the list, or remove it") from None
            ids = [line.strip() for line in text.splitlines() if line.strip()]
            if twice := [f"{key} (in splits/{found[key]}.txt)" for key in ids if key in found]:
                raise DataError(f"{name}: lists what another list has", bounded(twice), do="leave each id in one list")
            found |= dict.fromkeys(ids, split)
    return found
