"""An image and a mask of classes beside it: what published layouts for semantic segmentation share."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np

from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.source import (
    Item,
    opened,
    record,
)
from pipelines.data.schema import SPLITS, ClassInfo, Record, Split
from pipelines.data.tree import Files, Tree

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair(Item):
    mask: str


def read(item: Pair, *, files: Files, semantic: Callable[[str], np.ndarray]) -> Record:
    """The record of an item without segments. `semantic`: the mask's name -> class ids."""
    classes, picture = opened(item, {item.mask: lambda: semantic(item.mask), item.name: lambda: files.image(item.name)})
    return record(item, picture, classes)


def as_stuff(classes: Iterable[ClassInfo]) -> tuple[ClassInfo, ...]:
    """Where no instances are annotated: the pixels of a thing without a segment would be void."""
    return tuple(replace(c, isthing=False) for c in classes)


def beginning(tree: Tree, *marks: str) -> str:
    """What stands before the first of these folders that is there: "", or "VOC2012/" with the dataset a folder down."""
    for mark in marks:
        found = sorted(f.removesuffix(mark) for f in tree.folders if f == mark or f.endswith(f"/{mark}"))
        if len(found) > 1:
            raise FaultError(
                "layout", f"{mark} is there {len(found)} times, in {', '.join(found)}: set dataset.root to one of them"
            )
        if found:
            return found[0]
    raise FaultError("layout", f"there is no folder {' or '.join(marks)} in {tree.root}")


def lines(tree: Tree, name: str) -> list[str]:
    """What a list names, a line each; nothing where there is no such list."""
    if name not in tree:
        return []
    try:
        text = tree.files.read(name, limit=1 << 27).decode("utf-8-sig", errors="replace")
    except FaultError as error:
        raise FaultError("dataset-file", f"{name}: {error.reason}") from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def placed(key: str, image: str, lists: Mapping[Name, Collection[str]], faults: Faults) -> Name | None:
    """The list that names the image; a fault where none does, or more than one."""
    named = [name for name, keys in lists.items() if key in keys]
    if len(named) == 1:
        return named[0]
    if named:
        faults.add("duplicate-id", image, f"is in the lists of {' and '.join(named)}", key)
    else:
        faults.add("no-split", image, f"has labels, and is in none of the lists: {', '.join(lists)}", key)
    return None


def split_of(name: str) -> Split | None:
    """A list's split, if it is called like one."""
    return cast(Split, name) if name in SPLITS else None
