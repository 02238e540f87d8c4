"""A plain folder of images and masks, for all three tasks.

    <root>/classes.yaml          - {name: road, color: [128, 64, 128], isthing: false}    (.yml or .json as well)
    <root>/images/[<split>/]**   photographs: .png .jpg .jpeg .bmp .tif .tiff .webp
    <root>/masks/[<split>/]**    the same path and name with .png: class ids (palette or grey), or the classes' colours
    <root>/instances/[<split>/]**  optional, likewise: instance ids (up to 16 bits), 0 is none

A class's id in the masks is its place in classes.yaml, or its `id`; `color` and `isthing` may be left out (a palette's,
and false), and a class with `ignore: true` becomes ignored pixels, as 255 does where no class has it. A mask of three
channels is read by the classes' colours. An instance's class is the one that most of its pixels have in the mask;
without instances/ all classes are stuff, whatever `isthing` says.
Where images/ has sub-folders named train, val or test, these are the splits; otherwise `dataset.splits` are fractions.
"""

from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np

from pipelines.data import classes as tables
from pipelines.data import decode
from pipelines.data.classes import ClassTable
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.pairs import as_stuff
from pipelines.data.formats.source import (
    Item,
    Readers,
    Scan,
    Source,
    clashing,
    images_under,
    labelled,
    opened,
    present,
    record,
    segment,
)
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record, Segment, Split
from pipelines.data.tree import Files, Tree

CLASS_FILES = ("classes.yaml", "classes.yml", "classes.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair(Item):
    mask: str
    instances: str | None


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table = read_classes(tree, faults)
    images = images_under(tree, "images", faults)
    others = {kind: images_under(tree, kind, faults, (".png",)) for kind in ("masks", "instances")}
    if not tree.has_folder("instances"):
        del others["instances"]
    _check_pairs(images, others, faults)
    whole = [key for key in images if all(key in found for found in others.values())]
    splits = _splits(tree, whole, images, faults)
    items = [
        Pair(
            id=key,
            split=splits[key] if splits is not None else None,
            files=tuple(found[key] for found in (images, *others.values())),
            mask=others["masks"][key],
            instances=others["instances"][key] if "instances" in others else None,
        )
        for key in whole
        if splits is None or key in splits
    ]
    return Scan(
        classes=table.classes if "instances" in others else as_stuff(table.classes),
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def read_classes(tree: Tree, faults: Faults) -> ClassTable:
    """An unusable table is told with the other faults; a stand-in lets them be found."""
    name = next((name for name in CLASS_FILES if name in tree), None)
    if name is None:
        do = "list the classes in the order of their ids: - {name: road, color: [128, 64, 128], isthing: false}"
        faults.add("class-table", CLASS_FILES[0], f"is missing: {do}")
    else:
        with faults.of(name):
            return tables.parse(tree.files.read(name, limit=1 << 20).decode(errors="replace"), name)
    return tables.table([tables.Entry(name=str(i), isthing=True) for i in range(IGNORE)])


def _check_pairs(images: dict[str, str], others: dict[str, dict[str, str]], faults: Faults) -> None:
    unclear = clashing(faults)
    for kind, found in others.items():
        for key, name in images.items():
            if key not in found and key not in unclear:
                faults.add("no-mask", name, f"has no {kind}/{key}.png", key)
        for key, name in found.items():
            if key not in images and key not in unclear:
                faults.add("no-image", name, f"has no image images/{key}.*", key)


def _splits(tree: Tree, keys: list[str], images: dict[str, str], faults: Faults) -> dict[str, Split] | None:
    """By sub-folders, if there are any. An image that none places is left out, and said so."""
    if not any(tree.has_folder(f"images/{split}") for split in SPLITS):
        return None
    found: dict[str, Split] = {}
    for key in keys:
        first = key.partition("/")[0]
        if first in SPLITS:
            found[key] = cast(Split, first)
        else:
            where = ", ".join(f"images/{split}" for split in SPLITS)
            faults.add("no-split", images[key], f"in none of the splits' folders, {where}", key)
    return found


def labels(item: Pair, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(_semantic(files.read(item.mask), table))


def read(item: Pair, *, files: Files, table: ClassTable) -> Record:
    readers: Readers = {
        item.mask: lambda: _semantic(files.read(item.mask), table),
        item.name: lambda: files.image(item.name),
        **({item.instances: partial(files.mask, item.instances)} if item.instances else {}),
    }
    semantic, picture, *ids = opened(item, readers)
    faults, segments = Faults(), list[Segment]()
    if item.instances:
        segments = _segments(ids[0], semantic, table.classes, item.instances, item.id, faults)
    with faults.of(item.name, item.id):
        made = record(item, picture, semantic, segments)
    faults.check(item.id)
    return made


def _semantic(data: bytes, table: ClassTable) -> np.ndarray:
    """A mask of one channel holds ids; one of three holds colours."""
    if decode.channels(data) == 1:
        return table.semantic(decode.mask(data))
    if all(entry.color is None for entry in table.entries):
        raise FaultError(
            "colour-mask",
            "colour mask needs colour map: give the classes their colours, or the mask one channel of ids",
        )
    return table.semantic_of_colors(decode.colors(data))


def _segments(
    ids: np.ndarray, semantic: np.ndarray, classes: tuple[ClassInfo, ...], name: str, item: str, faults: Faults
) -> list[Segment]:
    if ids.shape != semantic.shape:
        said = f"instances {ids.shape[1]}x{ids.shape[0]}, mask {semantic.shape[1]}x{semantic.shape[0]}"
        faults.add("size-mismatch", name, said, item)
        return []
    found = []
    for identity, box in labelled(ids):
        votes = np.bincount(semantic[box][ids[box] == identity], minlength=256)[:IGNORE]
        category = int(votes.argmax())
        if not votes.any():
            faults.add("instance-label", name, f"instance {identity} lies on ignored pixels alone", item)
        elif not classes[category].isthing:
            said = f"instance {identity} lies on '{classes[category].name}', which is not a thing class"
            faults.add("instance-label", name, said, item)
        else:
            found.append(segment(ids, identity, box, category=category))
    return found
