"""What Cityscapes, KITTI and Mapillary Vistas share: a mask of label ids, and a map of instances whose values are a
label and a number in one.

The two say the same label of every pixel, as published; where they do not, one of them has been changed, and the image
is refused. The segments are those of the map: its values of a thing class, and where a format says so, those without a
number are groups (crowds).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from pipelines.data.classes import UNKNOWN, ClassTable
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.source import (
    IMAGE_SUFFIXES,
    Item,
    Readers,
    by_key,
    clashing,
    images_under,
    labelled,
    opened,
    present,
    record,
    segment,
)
from pipelines.data.schema import IGNORE, Record, Segment, Split
from pipelines.data.tree import Files, Tree
from pipelines.errors import bounded

# Values of an instance map -> the label of each, and whether it is a group instead of one object.
Meaning = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Numbered(Item):
    mask: str
    instances: str | None


def under(
    tree: Tree,
    folder: str,
    faults: Faults,
    *,
    key: Callable[[str], str],
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
) -> dict[str, str]:
    """Key -> name, of the images below a folder. `key`: a name within the folder, without suffix -> the image's id."""
    found = Faults()
    within = images_under(tree, folder, found, suffixes)
    faults += [replace(fault, item=key(fault.item)) if fault.item else fault for fault in found]
    return by_key([(key(name), file) for name, file in within.items()], faults)


def items(
    images: Mapping[str, str],
    masks: Mapping[str, str],
    instances: Mapping[str, str] | None,
    *,
    split: Callable[[str], Split | None],
    group: Callable[[str], str] = lambda key: "",
    faults: Faults,
) -> Iterator[Numbered]:
    """One for every image that has its labels; all others go to `faults`. Each mapping: key -> name."""
    others = {"mask": masks, "instance map": instances} if instances is not None else {"mask": masks}
    unclear = clashing(faults)
    for key, name in images.items():
        missing = [what for what, found in others.items() if key not in found]
        if key in unclear:
            continue
        for what in missing:
            faults.add("no-mask", name, f"has no {what}", key)
        if not missing:
            files = (name, *(found[key] for found in others.values()))
            number = instances[key] if instances is not None else None
            yield Numbered(id=key, split=split(key), group=group(key), files=files, mask=masks[key], instances=number)
    for what, found in others.items():
        for key, name in found.items():
            if key not in images and key not in unclear:
                faults.add("no-image", name, f"is the {what} of no image", key)


def labels(item: Numbered, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(_semantic(files.mask(item.mask), table))


def read(item: Numbered, *, files: Files, table: ClassTable, meaning: Meaning) -> Record:
    readers: Readers = {
        item.mask: lambda: _semantic(files.mask(item.mask), table),
        item.name: lambda: files.image(item.name),
        **({item.instances: partial(files.mask, item.instances)} if item.instances else {}),
    }
    semantic, picture, *values = opened(item, readers)
    faults, found = Faults(), list[Segment]()
    if item.instances:
        with faults.of(item.instances, item.id):
            found = segments(values[0], semantic, table=table, meaning=meaning)
    with faults.of(item.name, item.id):
        made = record(item, picture, semantic, found)
    faults.check(item.id)
    return made


def _semantic(mask: np.ndarray, table: ClassTable) -> np.ndarray:
    """Refuses a mask that holds class ids already: numbers that mean other classes as labels."""
    if IGNORE in table.values or not (mask == IGNORE).any():
        return table.semantic(mask)
    ids = sorted({*np.unique(mask).tolist()} - {IGNORE})
    if any(table.values.get(v) != v for v in ids) and ids[-1] < len(table.classes):
        said = ", ".join(bounded([str(v) for v in ids], 10))
        raise FaultError(
            "label-value",
            f"ids {{{said}}} with 255 around them: looks like trainIds; put back the label ids, as published",
        )
    return table.semantic(mask)


def segments(values: np.ndarray, semantic: np.ndarray, *, table: ClassTable, meaning: Meaning) -> list[Segment]:
    """Those of an instance map that says the same as the semantic map."""
    if values.shape != semantic.shape:
        said = f"instances {values.shape[1]}x{values.shape[0]}, mask {semantic.shape[1]}x{semantic.shape[0]}"
        raise FaultError("size-mismatch", said)
    of_value, groups = meaning(np.arange(65536))
    classes = table.by_value[of_value]  # int16[65536]: value of the map -> class
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=65536))
    if not np.array_equal(classes[values], semantic):
        raise FaultError("instance-label", _disagreement(values, semantic, found, of_value, table))
    things = [v for v in found.tolist() if classes[v] in table.things]
    numbers = np.zeros(65536, np.uint16)
    numbers[things] = np.arange(1, len(things) + 1)
    labels = numbers[values]
    return [
        segment(labels, k, box, category=int(classes[things[k - 1]]), iscrowd=bool(groups[things[k - 1]]))
        for k, box in labelled(labels)
    ]


def _disagreement(
    values: np.ndarray, semantic: np.ndarray, found: np.ndarray, of_value: np.ndarray, table: ClassTable
) -> str:
    classes = table.by_value[of_value]
    if unknown := found[classes[found] == UNKNOWN].tolist():
        listed = ", ".join(bounded([str(v) for v in unknown], 10))
        said = f"values {{{listed}}} are of labels that are not in the class table"
    else:
        differs = classes[values] != semantic
        pairs, counts = np.unique(np.stack([semantic[differs], classes[values][differs]]), axis=1, return_counts=True)
        mine, theirs = (_name(table, label) for label in pairs[:, counts.argmax()].tolist())
        said = f"says another label than the mask of {differs.sum()} pixels, as {theirs} for {mine}"
    if np.array_equal(np.where(of_value < len(table.classes), of_value, IGNORE)[values], semantic):
        said += "; looks like trainIds: put back the label ids, as published"
    return said


def _name(table: ClassTable, label: int) -> str:
    return "ignored" if label == IGNORE else f"'{table.classes[label].name}'"
