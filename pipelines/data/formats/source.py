"""What every format gives, a scan of its source and then one record per item, and what formats share."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import ValidationError
from scipy import ndimage

from pipelines.data import rle
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record, Segment, Split
from pipelines.errors import DataError

Box = tuple[slice, slice]
MAX_BYTES = 1 << 29  # of an image or a mask file


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a dataset comes from, as params.yaml says it."""

    root: Path | None
    splits: Mapping[str, float]
    seed: int
    shapes: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scan:
    """A source at first sight: its classes, and what is still to be read."""

    classes: tuple[ClassInfo, ...]
    items: Sequence[Any]
    read: Callable[[Any], Record]  # in another process: a function of a module, and plain arguments
    name: Callable[[Any], str]  # what messages call an item
    faults: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FormatSpec:
    scan: Callable[[Source], Scan]
    isolated: bool  # reads files from outside, so only in processes that may die
    holds: str  # what has to be in dataset.root


class Faults(list[str]):
    """Collects what is wrong, so that all of it is said at once."""

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Go on after a DataError, and remember it as `name`'s."""
        try:
            yield
        except DataError as error:
            self += [f"{name}: {said}" for said in error.faults or [str(error)]]

    def check(self, what: str, do: str = "") -> None:
        if self:
            raise DataError(what, self, do)


def folder(root: Path | None) -> Path:
    """The dataset's root, with links resolved: every file must lie in it."""
    if root is None or not root.is_dir():
        raise DataError(f"dataset.root: {root} is not a folder", do="set dataset.root in params.yaml")
    return root.resolve()


def check_inside(root: Path, name: str) -> None:
    """Refuse what is not a file inside `root`, without opening it."""
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a null byte
        raise DataError(f"cannot be resolved: {error}") from None
    if not path.is_relative_to(root):
        raise DataError("outside dataset root")
    if not path.is_file():
        raise DataError("missing")


def contents(path: Path, limit: int = MAX_BYTES) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise DataError(f"bytes {size} over limit {limit}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None


@contextmanager
def parsing(name: str) -> Iterator[None]:
    """pydantic's faults in our words."""
    try:
        yield
    except ValidationError as error:
        said = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()]
        raise DataError(f"{name} is not as expected", said) from None


def duplicates(values: Iterable[Any]) -> list[Any]:
    """Those that are there more than once, in order."""
    seen: dict[Any, int] = {}
    for value in values:
        seen[value] = seen.get(value, 0) + 1
    return [value for value, times in seen.items() if times > 1]


def check_count(name: str, classes: int) -> None:
    if not 1 <= classes <= IGNORE:
        raise DataError(f"{name}: {classes} classes, allowed are 1 to {IGNORE} ({IGNORE} marks ignored pixels)")


def split_of(identity: str, splits: Mapping[str, float]) -> Split:
    """By the id's hash alone: adding images, or another seed, moves none to another split."""
    at = int.from_bytes(hashlib.sha256(os.fsencode(identity)).digest()[:8]) / 2**64 * sum(splits.values())
    used = [split for split in SPLITS if splits[split] > 0]
    for split in used[:-1]:
        if at < splits[split]:
            return cast(Split, split)
        at -= splits[split]
    return cast(Split, used[-1])


def color(index: int) -> tuple[int, int, int]:
    """PASCAL VOC's palette, from its second entry on: the bits of the index, spread over three channels."""
    index, channels = index + 1, [0, 0, 0]
    for shift in range(8):
        for k in range(3):
            channels[k] |= (index >> (3 * shift + k) & 1) << (7 - shift)
    red, green, blue = channels
    return red, green, blue


def labelled(labels: np.ndarray) -> Iterator[tuple[int, Box]]:
    """Every label from 1 on that is there, with the tight rows and columns around it."""
    return ((k, box) for k, box in enumerate(ndimage.find_objects(labels), start=1) if box is not None)


def segment(labels: np.ndarray, label: int, box: Box, *, category: int, iscrowd: bool = False) -> Segment:
    """The pixels that have this label. Looks at the box's columns alone: there may be hundreds in a large image."""
    rows, columns = box
    counts = rle.encode(labels[:, columns] == label)
    height, width = labels.shape
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
