"""ADE20K, the full release with its objects: ADE20K_2021_17_01 or ADE20K_2016_07_26. Zhou et al. 2019,
https://ade20k.csail.mit.edu

    <root>/[ADE20K_2021_17_01/]images/[ADE/]{training,validation}/<place>/<scene>/<name>.jpg
    .../<name>_seg.png      class R / 10 * 256 + G, its place in the dataset's index of names from 1 on; 0 is not
                            labelled. B tells the objects of an image apart
    .../<name>_parts_*.png, <name>.json, <name>_atr.txt, <name>/    not read: parts, polygons, masks behind others
    <root>/classes.yaml     optional: the classes to keep, as format `folder` has them, with `id` the place in the index

The index has over 3000 classes, and a map has room for 255. Without classes.yaml the 254 of
classes/ade20k_full_254.yaml are kept, among them all of the 150 of the scene parsing benchmark. The pixels of the other
classes are ignored, and counted in the report (`unlisted`). Pixels of one class and one B are an object; crowds are not
marked, and B repeats in images with more than 255 objects. The index itself is a pickle (a .mat in 2016), and is not
opened. An image is called by its path below images/.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from pipelines.data import classes as tables
from pipelines.data import decode
from pipelines.data.classes import ClassTable
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import pairs
from pipelines.data.formats.pairs import Pair
from pipelines.data.formats.source import (
    IMAGE_SUFFIXES,
    Scan,
    Source,
    by_key,
    clashing,
    key_of,
    labelled,
    present,
    record,
    segment,
)
from pipelines.data.schema import IGNORE, Record, Segment, Split
from pipelines.data.tree import Files, Tree
from pipelines.errors import bounded

SPLITS_OF: dict[str, Split] = {"training": "train", "validation": "val"}
FOLDERS = ("images/ADE/training", "images/ADE/validation", "images/training", "images/validation")
MASK = "_seg.png"
OTHERS = re.compile(r"_(seg|parts_[0-9]+)\.png$|/instance_[^/]+\.png$")  # what lies beside a photograph


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table, items = tables.published("ade20k_full_254"), list[Pair]()
    if "classes.yaml" in tree:
        with faults.of("classes.yaml"):
            table = tables.parse(
                tree.files.read("classes.yaml", limit=1 << 20).decode(errors="replace"), "classes.yaml"
            )
    with faults.of(""):
        base = pairs.beginning(tree, *FOLDERS)
        items = list(_items(tree, f"{base}images/", faults))
    return Scan(
        classes=table.classes,
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def _items(tree: Tree, base: str, faults: Faults) -> Iterator[Pair]:
    names = tree.under(base.rstrip("/"), IMAGE_SUFFIXES)
    masks = {name[len(base) : -len(MASK)]: name for name in names if name.endswith(MASK)}
    images = by_key([(key_of(n)[len(base) :], n) for n in names if _is_image(n, masks, base)], faults)
    if not masks:
        raise FaultError("layout", f"there are no *{MASK} below {base}; the scene parsing benchmark is format ade20k")
    for key in sorted((images.keys() | masks.keys()) - clashing(faults)):
        folders = PurePosixPath(key).parts[:2]  # not deeper: there are scenes called train_station
        split = next((SPLITS_OF[folder] for folder in folders if folder in SPLITS_OF), None)
        if key not in images:
            faults.add("no-image", masks[key], f"has no image {key}.jpg", key)
        elif key not in masks:
            faults.add("no-mask", images[key], f"has no mask {key}{MASK}", key)
        else:
            yield Pair(id=key, split=split, files=(images[key], masks[key]), mask=masks[key])


def _is_image(name: str, masks: Mapping[str, str], base: str) -> bool:
    """No labels of an image, and none of its objects, which lie in a folder of its name."""
    folder = name[len(base) :].rpartition("/")[0]
    return not OTHERS.search(name) and folder not in masks


def labels(item: Pair, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(_known(_places(decode.colors(files.read(item.mask))), table))


def read(item: Pair, *, files: Files, table: ClassTable) -> Record:
    """Both files are decoded before the first fault is raised."""
    faults = Faults()
    picture = semantic = None
    segments: list[Segment] = []
    with faults.of(item.mask, item.id):
        rgb = decode.colors(files.read(item.mask))
        places = _places(rgb)
        semantic = _known(places, table)
        segments = _segments(semantic, rgb[..., 2], table)
        if said := _unlisted(places, table):
            faults.add("unlisted", item.mask, said, item.id)
    with faults.of(item.name, item.id):
        picture = files.image(item.name)
    faults.check(item.id)
    assert semantic is not None  # noqa: S101 - or there were faults
    assert picture is not None  # noqa: S101
    return record(item, picture, semantic, segments, faults)


def _places(rgb: np.ndarray) -> np.ndarray:
    """uint8[h, w, 3] of a *_seg.png -> uint16[h, w]: places in the index of names, 0 for none."""
    if (rgb[..., 0] % 10).any():
        raise FaultError("colour-mask", "R holds other values than 0, 10, 20, ...: no *_seg.png as published")
    places: np.ndarray = rgb[..., 0].astype(np.uint16) // 10 * 256 + rgb[..., 1]
    return places


def _known(places: np.ndarray, table: ClassTable) -> np.ndarray:
    """uint8[h, w] of class ids; what the table does not have is ignored."""
    lookup = np.full(1 << 16, IGNORE, np.uint8)
    lookup[list(table.values)] = list(table.values.values())
    found: np.ndarray = lookup[places]
    return found


def _unlisted(places: np.ndarray, table: ClassTable) -> str:
    """What is ignored since the table does not have it, in words."""
    pixels = np.bincount(places.ravel())
    pixels[[0, *(place for place in table.values if 0 < place < len(pixels))]] = 0
    left = np.flatnonzero(pixels)
    if not left.size:
        return ""
    listed = ", ".join(bounded([str(place) for place in left], 10))
    return f"{pixels.sum()} pixels of classes that the class table leaves out are ignored: places {listed} of the index"


def _segments(semantic: np.ndarray, objects: np.ndarray, table: ClassTable) -> list[Segment]:
    """Those of things; by class, then by B."""
    keys = semantic.astype(np.uint16) << 8 | objects
    thing = np.zeros(256, bool)
    thing[list(table.things)] = True
    keys = np.where(thing[semantic], keys, IGNORE << 8)
    there = np.flatnonzero(np.bincount(keys.ravel(), minlength=1 << 16)[: IGNORE << 8])
    numbers = np.zeros(1 << 16, np.int32)
    numbers[there] = np.arange(1, len(there) + 1)
    numbered = numbers[keys]
    return [segment(numbered, k, box, category=int(there[k - 1]) >> 8) for k, box in labelled(numbered)]
