"""COCO-Stuff 164k, as published (https://github.com/nightrome/cocostuff; Caesar, Uijlings, Ferrari, CVPR 2018).

    <root>/stuffthingmaps/<name>/*.png          pixel maps of stuffthingmaps_trainval2017: COCO's category id less one;
                                                255 is unlabelled, and ignored
    <root>/<name>/*.jpg                         the images (or <root>/images/<name>/, or <root>/images/)
    <root>/annotations/instances_<name>.json    optional: COCO's instances

<name> is train2017 or val2017, and the split. With the instances the 80 thing classes have segments, as format `coco`
reads them, and the map says what is visible where they overlap; without them all 171 classes are stuff.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath

from pipelines.data import classes as tables
from pipelines.data.classes import ClassTable
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import coco, coco_json, pairs
from pipelines.data.formats.coco_json import Category, Image, Of
from pipelines.data.formats.source import Item, Scan, Source, images_under, key_of, present, record, split_named
from pipelines.data.schema import Record, Segment
from pipelines.data.tree import Files, Tree

MAPS = "stuffthingmaps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped(Item):
    mask: str
    source: str = ""  # the json
    height: int = 0  # as the json says
    width: int = 0
    classes: tuple[int, ...] = ()  # of each annotation
    annotations: bytes = b""


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    table = tables.published("coco_stuff_171")
    names = [PurePosixPath(folder).name for folder in tree.children(MAPS)]
    if not names:
        faults.add("layout", MAPS, "holds no folder of maps, as train2017/: set dataset.root to the dataset's folder")
    things = any(_json(name) in tree for name in names)
    items: list[Mapped] = []
    for name in names:
        with faults.of(f"{MAPS}/{name}"):
            if things and _json(name) not in tree:
                raise FaultError("layout", f"has no {_json(name)}, and another folder has one")
            objects = _objects(tree, _json(name), table, faults) if things else None
            items += _items(tree, name, objects, table, faults)
    coco.check_unlabelled(tree, faults, {item.id for item in items} | {fault.item for fault in faults})
    return Scan(
        classes=table.classes if things else pairs.as_stuff(table.classes),
        items=items,
        read=partial(read, files=tree.files, table=table),
        labels=partial(labels, files=tree.files, table=table),
        faults=faults,
    )


def _json(name: str) -> str:
    return f"annotations/instances_{name}.json"


def _objects(tree: Tree, json: str, table: ClassTable, faults: Faults) -> dict[str, tuple[Image, Of]] | None:
    """Image file_name -> image and annotations; None where the file cannot be used, which `faults` says."""
    found: dict[str, tuple[Image, Of]] | None = None
    with faults.of(json):
        published = coco.parse(tree, json, faults)
        _check_categories(published.categories, table)
        found = {image.file_name: (image, of) for image, of in coco.listed(published)}
        for identity in published.annotations:
            faults.add("unknown-image", json, f"image {identity!r} is not in images", f"{json} image {identity!r}")
    return found


def _check_categories(categories: list[Category], table: ClassTable) -> None:
    for category in categories:
        place = table.values.get(category.id - 1)
        if place not in table.things or table.classes[place].name != category.name:
            raise FaultError("class-table", f"category {category.id} '{category.name}' is no thing class of COCO-Stuff")


def _items(
    tree: Tree, name: str, objects: Mapping[str, tuple[Image, Of]] | None, table: ClassTable, faults: Faults
) -> Iterator[Mapped]:
    """The usable images of one folder; what is not usable goes to `faults`."""
    folder = tree.first_folder(name, f"images/{name}", "images")
    images, maps = images_under(tree, folder, faults), images_under(tree, f"{MAPS}/{name}", faults, (".png",))
    for key, image in images.items():
        identity, before = f"{folder}/{key}", len(faults)
        listed = (objects or {}).get(image.removeprefix(f"{folder}/"))
        if key not in maps:
            faults.add("no-mask", image, f"has no {MAPS}/{name}/{key}.png", identity)
        if objects is not None and listed is None:
            faults.add("no-mask", image, f"is not in {_json(name)}", identity)
        for kind, reason in listed[1].faults if listed else ():
            faults.add(kind, _json(name), reason, identity)
        if len(faults) > before:
            continue
        item = Mapped(id=identity, split=split_named(name), files=(image, maps[key]), mask=maps[key])
        yield _with_objects(item, _json(name), *listed, table) if listed else item
    for key, mask in maps.items():
        if key not in images:
            faults.add("no-image", mask, f"has no image {folder}/{key}.*", f"{folder}/{key}")
    for file_name in objects or ():
        if (key := key_of(file_name)) not in images and key not in maps:
            faults.add("missing-file", f"{folder}/{file_name}", "missing", f"{folder}/{key}")


def _with_objects(item: Mapped, json: str, image: Image, of: Of, table: ClassTable) -> Mapped:
    return Mapped(
        id=item.id,
        split=item.split,
        files=item.files,
        mask=item.mask,
        source=json,
        height=image.height,
        width=image.width,
        classes=tuple(table.values[category - 1] for category in of.categories),
        annotations=of.zipped(),
    )


def labels(item: Mapped, *, files: Files, table: ClassTable) -> frozenset[int]:
    return present(table.semantic(files.mask(item.mask)))


def read(item: Mapped, *, files: Files, table: ClassTable) -> Record:
    """Every file is decoded, and every annotation looked at, before the first fault is raised."""
    faults = Faults()
    picture = semantic = None
    with faults.of(item.mask, item.id):
        semantic = table.semantic(files.mask(item.mask))
        if item.source and semantic.shape != (item.height, item.width):
            said = f"mask {semantic.shape[1]}x{semantic.shape[0]}, {item.source} says {item.width}x{item.height}"
            raise FaultError("size-mismatch", said)
    with faults.of(item.name, item.id):
        picture = files.image(item.name)
    segments: list[Segment] = []
    if item.source:
        with faults.of(item.source, item.id):
            segments = coco_json.segments(
                item.annotations, item.classes, item.height, item.width, source=item.source, item=item.id, faults=faults
            )
    faults.check(item.id)
    assert semantic is not None  # noqa: S101 - or there were faults
    assert picture is not None  # noqa: S101
    front_first = sorted(segments, key=lambda s: (s.iscrowd, s.area))
    return record(item, picture, semantic, front_first, faults)
