"""PASCAL VOC, 2007 to 2012, as published (http://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples/index.html).

    <root>/[VOCdevkit/VOC2012/]ImageSets/Segmentation/{train,val,trainval,test}.txt    ids, one a line
    .../JPEGImages/<id>.jpg             photographs, of all tasks
    .../SegmentationClass/<id>.png      palette of class ids: 0 is background, a class; 255 is border, ignored
    .../SegmentationObject/<id>.png     palette of object ids: from 1 on; 0 is none, 255 is border
    .../SegmentationClassAug/<id>.png   optional: class ids of the images that Hariharan et al. (ICCV 2011, "SBD")
                                        added, listed in ImageSets/Segmentation/{trainaug,train_aug,aug}.txt
    .../classes.yaml                    optional, not of VOC: other classes, as format `folder` writes them

An object's class is the one that most of its pixels have in SegmentationClass. An image that has no object mask (SBD's)
gets a semantic map alone; without any object mask all classes are stuff. Images of no list and without masks are there
for other tasks, and a test list without one mask is published so: both are left out as `unlabelled`. Where neither
train.txt nor val.txt is there, the images of all lists get splits by fraction. Bounding boxes (Annotations/) are not
read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

import numpy as np

from pipelines.data import classes as tables
from pipelines.data.classes import ClassTable
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import pairs
from pipelines.data.formats.source import (
    Item,
    Scan,
    Source,
    clashing,
    images_under,
    labelled,
    present,
    record,
    segment,
)
from pipelines.data.schema import IGNORE, SPLITS, Record, Segment
from pipelines.data.tree import Files, Tree
from pipelines.errors import bounded

LISTS = ("ImageSets/Segmentation", "ImageSets/SegmentationAug")
AUGMENTED = ("trainaug", "train_aug", "aug")
MASKS = ("SegmentationClass", "SegmentationClassAug")
OBJECTS = "SegmentationObject"


@dataclass(frozen=True, kw_only=True, slots=True)
class Listed(Item):
    mask: str
    objects: str | None


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table, items = tables.published("voc"), list[Listed]()
    base = ""
    with faults.of(LISTS[0]):
        base = pairs.beginning(tree, LISTS[0])
        table = _table(tree, f"{base}classes.yaml", faults, table)
        items = list(_items(tree, base, faults))
    return Scan(
        classes=table.classes if tree.has_folder(f"{base}{OBJECTS}") else pairs.as_stuff(table.classes),
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def _table(tree: Tree, name: str, faults: Faults, usual: ClassTable) -> ClassTable:
    if name in tree:
        with faults.of(name):
            return tables.parse(tree.files.read(name, limit=1 << 20).decode(errors="replace"), name)
    return usual


def _lists(tree: Tree, base: str) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """The ids of train (with SBD's, where their masks are there), val and test; where neither of the first two is
    there, of all lists that are. And those of the lists that say no split, as trainval."""
    found: dict[str, set[str]] = {}
    augmented = tree.has_folder(f"{base}{MASKS[1]}")
    for name in (n for folder in LISTS for n in tree.under(f"{base}{folder}", (".txt",))):
        stem = PurePosixPath(name).stem
        if stem in AUGMENTED:
            stem = "train" if augmented else ""
        found.setdefault(stem, set()).update(map(_id, pairs.lines(tree, name)))
    splits = {split: found.pop(split) for split in SPLITS if split in found}
    found.pop("", None)
    lists = splits if splits.keys() & {"train", "val"} else splits | {"trainval": set[str]().union(*found.values())}
    if not any(lists.values()):
        raise FaultError("layout", "holds no list that names an image: train.txt and val.txt are expected")
    return lists, found


def _id(line: str) -> str:
    """Some of SBD's lists have pairs of paths: "/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png"."""
    first = line.split()[0]
    return PurePosixPath(first).stem if first.startswith("/") else line


def _items(tree: Tree, base: str, faults: Faults) -> Iterator[Listed]:
    lists, others = _lists(tree, base)
    named = others | lists
    images = images_under(tree, f"{base}JPEGImages", faults)
    own, added = (images_under(tree, f"{base}{folder}", faults, (".png",)) for folder in MASKS)
    masks = added | own  # VOC's go before SBD's
    objects = images_under(tree, f"{base}{OBJECTS}", faults, (".png",))
    unclear = clashing(faults)
    for key in sorted((images.keys() | masks.keys() | objects.keys()) - unclear):
        image, mask = images.get(key), masks.get(key)
        if image is None:
            faults.add("no-image", mask or objects[key], f"has no image JPEGImages/{key}.jpg", key)
        elif mask is None:
            faults.add(*_without_mask(key, image, named, masks))
        elif listed := pairs.placed(key, image, lists, faults):
            files = (image, mask, *filter(None, [objects.get(key)]))
            split = pairs.split_of(listed)
            yield Listed(id=key, split=split, files=files, mask=mask, objects=objects.get(key))
    told = images.keys() | masks.keys() | objects.keys() | unclear
    for name, keys in (lists | others).items():
        for key in sorted(keys - told):
            faults.add("missing-file", f"{base}JPEGImages/{key}.jpg", f"missing, and in the list {name}", key)
        told |= keys


def _without_mask(
    key: str, image: str, lists: Mapping[str, set[str]], masks: Mapping[str, str]
) -> tuple[str, str, str, str]:
    """A fault, unless images such as this one are published so."""
    named = [name for name, keys in lists.items() if key in keys]
    if not named or (named == ["test"] and lists["test"].isdisjoint(masks)):
        return "unlabelled", image, "is published without a mask, and left out", key
    return "no-mask", image, f"has no mask {MASKS[0]}/{key}.png", key


def labels(item: Listed, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(table.semantic(files.mask(item.mask)))


def read(item: Listed, *, files: Files, table: ClassTable) -> Record:
    """Every file of the item is decoded before the first fault is raised."""
    faults = Faults()
    picture = semantic = None
    segments: list[Segment] = []
    with faults.of(item.mask, item.id):
        semantic = table.semantic(files.mask(item.mask))
    with faults.of(item.name, item.id):
        picture = files.image(item.name)
    if item.objects is not None:
        with faults.of(item.objects, item.id):
            ids = files.mask(item.objects)
            if semantic is not None:
                segments = _segments(ids, semantic, table)
    faults.check(item.id)
    assert semantic is not None  # noqa: S101 - or there were faults
    assert picture is not None  # noqa: S101
    return record(item, picture, semantic, segments)


def _segments(ids: np.ndarray, semantic: np.ndarray, table: ClassTable) -> list[Segment]:
    if ids.shape != semantic.shape:
        said = f"objects {ids.shape[1]}x{ids.shape[0]}, mask {semantic.shape[1]}x{semantic.shape[0]}"
        raise FaultError("size-mismatch", said)
    ids = np.where(ids == IGNORE, 0, ids)
    found, wrong = [], []
    for identity, box in labelled(ids):
        votes = np.bincount(semantic[box][ids[box] == identity], minlength=256)[:IGNORE]
        category = int(votes.argmax())
        if votes.any() and category in table.things:
            found.append(segment(ids, identity, box, category=category))
        else:
            on = f"'{table.classes[category].name}', which is no thing class" if votes.any() else "ignored pixels alone"
            wrong.append(f"object {identity} lies on {on}")
    if wrong:
        raise FaultError("instance-label", "; ".join(bounded(wrong, 10)))
    return found
