"""COCO's detection format, as published (https://cocodataset.org/#format-data; Lin et al., ECCV 2014).

    <root>/annotations/instances_<name>.json    images, annotations, categories
    <root>/<name>/*                             the images (or <root>/images/<name>/, or <root>/images/)

<name> is train2017, val2017, ...; the split that it names is the images' split, and where it names none
`dataset.splits` gives fractions. Class 0 is background, whatever no object covers; after it come the categories in
their order, all of them things. An object is polygons (all parts are one object, filled as COCO's own tools do) or RLE,
as a list or as COCO's compressed text; crowds keep their flag. Objects may overlap: in the semantic map the smaller one
is in front, and crowds are behind. Areas and boxes in the file are not read. An image without an object is background
alone. Of images that no instances_*.json names, those of test*/ and unlabeled*/ folders are left out as published so;
any other is a fault, wherever it lies, and so is an image that two files name.
"""

from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from pipelines.data.classes import duplicates
from pipelines.data.decode import MAX_PIXELS
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import coco_json
from pipelines.data.formats.coco_json import Category, Image, Instances, Of
from pipelines.data.formats.objects import with_background
from pipelines.data.formats.source import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    Item,
    Scan,
    Source,
    key_of,
    once,
    paint,
    record,
    split_named,
)
from pipelines.data.schema import ClassInfo, Record, Segment
from pipelines.data.tree import MAX_JSON_BYTES, Files, Tree

LABELS = ("annotations/", "panoptic_", "stuffthingmaps")  # folders whose PNGs are no photographs
UNLABELLED = ("test", "unlabeled")  # of folders that are published without annotations


@dataclass(frozen=True, kw_only=True, slots=True)
class Annotated(Item):
    source: str  # the json
    height: int
    width: int
    classes: tuple[int, ...]  # of each annotation
    annotations: bytes  # their texts, zipped


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    named_by: list[tuple[str, Annotated]] = []
    categories: list[Category] | None = None
    for name in jsons(tree, faults):
        with faults.of(name):
            published = parse(tree, name, faults)
            categories = published.categories if categories is None else categories
            if published.categories != categories:
                raise FaultError("class-table", "has other categories than the first instances_*.json")
            folder = tree.first_folder(named(name), f"images/{named(name)}", "images")
            named_by += [(name, item) for item in _items(tree, folder, name, published, faults)]
    items = once(named_by, faults)
    known = {item.id for _, item in named_by} | {fault.item for fault in faults}
    check_unnamed(tree, faults, known, said="no instances_*.json names it")
    return Scan(
        classes=classes(categories or []),
        items=items,
        read=partial(read, files=tree.files),
        labels=labels,
        faults=faults,
    )


def jsons(tree: Tree, faults: Faults) -> list[str]:
    names = [n for n in tree.under("annotations", (".json",)) if PurePosixPath(n).name.startswith("instances_")]
    if not names:
        faults.add("layout", "annotations", "holds no instances_*.json: set dataset.root to the dataset's folder")
    return names


def named(json: str) -> str:
    """annotations/instances_train2017.json -> train2017"""
    return PurePosixPath(json).stem.removeprefix("instances_")


def parse(tree: Tree, name: str, faults: Faults) -> Instances:
    published = coco_json.parse(tree.files.read(name, limit=MAX_JSON_BYTES), name, faults)
    if twice := duplicates(c.id for c in published.categories):
        raise FaultError("class-table", f"category id {twice[0]} is there twice")
    classes(published.categories)
    return published


def classes(categories: list[Category]) -> tuple[ClassInfo, ...]:
    return with_background([category.name for category in categories])


def _items(tree: Tree, folder: str, name: str, published: Instances, faults: Faults) -> Iterator[Annotated]:
    """The usable images of one json; what is not usable goes to `faults`."""
    places = {category.id: k for k, category in enumerate(published.categories, start=1)}
    for image, of in listed(published):
        path = str(PurePosixPath(folder, image.file_name))
        key, before = key_of(path), len(faults)
        with faults.of(path, key):
            tree.check(path)
        for kind, reason in of.faults:
            faults.add(kind, name, reason, key)
        if len(faults) == before:
            yield Annotated(
                id=key,
                split=split_named(named(name)),
                files=(path,),
                source=name,
                height=image.height,
                width=image.width,
                classes=tuple(places[c] for c in of.categories),
                annotations=of.zipped(),
            )

    for identity, of in published.annotations.items():
        said = f"image {identity!r} is not in images, and has {len(of.texts) + len(of.faults)} annotations"
        faults.add("unknown-image", name, said, f"{name} image {identity!r}")


def listed(published: Instances) -> Iterator[tuple[Image, Of]]:
    """Its images, each with its annotations, which are taken out, and with what is wrong with either."""
    ids = set(duplicates(image.id for image in published.images))
    names = set(duplicates(image.file_name for image in published.images))
    for image in published.images:
        of = published.annotations.pop(image.id, None) or Of()
        if image.id in ids:
            of.fault("duplicate-id", f"image id {image.id!r} is there twice")
        if image.file_name in names:
            of.fault("duplicate-id", f"image file_name {image.file_name!r} is there twice")
        if image.height * image.width > MAX_PIXELS:
            of.fault("too-large", f"pixels {image.width}x{image.height} over limit {MAX_PIXELS}")
        yield image, of


def check_unnamed(tree: Tree, faults: Faults, known: Set[str], *, said: str) -> None:
    """Images that nothing names: published so, or forgotten. `known`: the names without suffix of those that are an
    item, or were told of."""
    stopped = any(fault.outcome == "stop" for fault in faults)  # nobody knows then what is named
    for name in tree.under("", IMAGE_SUFFIXES + OTHER_SUFFIXES):
        key, place = key_of(name), name.removeprefix("images/")
        if key in known or name.startswith(LABELS):
            continue
        if "/" in place and place.startswith(UNLABELLED):
            faults.add("unlabelled", name, "published without annotations: left out", key)
        elif not name.lower().endswith(IMAGE_SUFFIXES):
            faults.add("suffix-unknown", name, f"suffix not allowed (allowed: {', '.join(IMAGE_SUFFIXES)})", key)
        elif not stopped:
            faults.add("no-mask", name, said, key)


def labels(item: Annotated) -> frozenset[int]:
    return frozenset(item.classes)


def read(item: Annotated, *, files: Files) -> Record:
    """The image is decoded, and every annotation looked at, before the first fault is raised."""
    faults, picture = Faults(), None
    with faults.of(item.name, item.id):
        picture = files.image(item.name)
    found: list[Segment] = []
    with faults.of(item.source, item.id):
        found = coco_json.segments(
            item.annotations, item.classes, item.height, item.width, source=item.source, item=item.id, faults=faults
        )
    faults.check(item.id)
    assert picture is not None  # noqa: S101 - or there were faults
    if not item.classes:
        faults.add("no-annotations", item.name, "has no annotations: all of it is background", item.id)
    semantic, front_first = paint(found, item.height, item.width, background=0)
    return record(item, picture, semantic, front_first, faults)
