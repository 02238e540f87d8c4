"""COCO-Stuff 164k, as published (https://github.com/nightrome/cocostuff; Caesar, Uijlings, Ferrari, CVPR 2018).

    <root>/stuffthingmaps/<name>/*.png          pixel maps of stuffthingmaps_trainval2017: COCO's category id less one;
                                                255 is unlabelled, and ignored
    <root>/<name>/*.jpg                         the images (or <root>/images/<name>/, or <root>/images/)
    <root>/annotations/instances_<name>.json    optional: COCO's instances

<name> is train2017 or val2017, and the split. With the instances the 80 thing classes have segments, as format `coco`
reads them, and the map says what is visible where they overlap; without them all 171 classes are stuff.
In one images/ for all names those images are a name's that it has a map or an entry of; ids are images/<name>/<key>.
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
from pipelines.data.formats.source import (
    Item,
    Scan,
    Source,
    clashing,
    images_under,
    key_of,
    present,
    record,
    split_named,
)
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
    folders: dict[str, dict[str, str]] = {}  # of images: key within -> name
    used: set[str] = set()
    for name in names:
        with faults.of(f"{MAPS}/{name}"):
            if things and _json(name) not in tree:
                raise FaultError("layout", f"has no {_json(name)}, and another folder has one")
            objects = _objects(tree, _json(name), table, faults) if things else None
            folder = tree.first_folder(name, f"images/{name}", "images")
            if folder not in folders:
                folders[folder] = _within(tree, folder, faults)
            maps = images_under(tree, f"{MAPS}/{name}", faults, (".png",), start=f"{_start(name, folder)}/")
            images = _images(name, folder, folders[folder], maps, objects or {})
            used |= {key_of(image) for image in images.values()}
            items += _items(name, folder, images, maps, objects, table, faults)
    known = used | {key_of(fault.file) for fault in faults} | {fault.item for fault in faults}
    coco.check_unnamed(tree, faults, known, said=f"no folder of {MAPS}/ has a map of it")
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


def _within(tree: Tree, folder: str, faults: Faults) -> dict[str, str]:
    """Key within the folder -> image."""
    found = images_under(tree, folder, faults, start=f"{folder}/")
    return {key.removeprefix(f"{folder}/"): name for key, name in found.items()}


def _start(name: str, folder: str) -> str:
    """What ids begin with. The same picture may have a map under several names: images/ alone does not tell them."""
    return folder if folder.endswith(name) else f"{folder}/{name}"


def _images(
    name: str, folder: str, found: Mapping[str, str], maps: Mapping[str, str], objects: Mapping[str, object]
) -> dict[str, str]:
    """Id -> image: of a folder of its own all, of one for all names those that this one has a map or objects of."""
    start = _start(name, folder)
    listed = {key_of(file_name) for file_name in objects}
    return {
        f"{start}/{key}": image
        for key, image in found.items()
        if start == folder or f"{start}/{key}" in maps or key in listed
    }


def _items(
    name: str,
    folder: str,
    images: Mapping[str, str],
    maps: Mapping[str, str],
    objects: Mapping[str, tuple[Image, Of]] | None,
    table: ClassTable,
    faults: Faults,
) -> Iterator[Mapped]:
    """The usable images of one name; what is not usable goes to `faults`."""
    start, unclear = _start(name, folder), clashing(faults)
    unclear |= {f"{start}/{key.removeprefix(f'{folder}/')}" for key in unclear}
    for identity, image in images.items():
        key, before = key_of(image).removeprefix(f"{folder}/"), len(faults)
        listed = (objects or {}).get(image.removeprefix(f"{folder}/"))
        if identity in unclear:
            continue
        if identity not in maps:
            faults.add("no-mask", image, f"has no {MAPS}/{name}/{key}.png", identity)
        if objects is not None and listed is None:
            faults.add("no-mask", image, f"is not in {_json(name)}", identity)
        for kind, reason in listed[1].faults if listed else ():
            faults.add(kind, _json(name), reason, identity)
        if len(faults) > before:
            continue
        item = Mapped(id=identity, split=split_named(name), files=(image, maps[identity]), mask=maps[identity])
        yield _with_objects(item, _json(name), *listed, table) if listed else item
    for identity, mask in maps.items():
        if identity not in images and identity not in unclear:
            faults.add("no-image", mask, f"has no image {folder}/{identity.removeprefix(f'{start}/')}.*", identity)
    for file_name in objects or ():
        identity = f"{start}/{key_of(file_name)}"
        if identity not in images and identity not in maps and identity not in unclear:
            faults.add("missing-file", f"{folder}/{file_name}", "missing", identity)


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
