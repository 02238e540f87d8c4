"""One mask per object, as the 2018 Data Science Bowl publishes nuclei, stage1_train (https://bbbc.broadinstitute.org/
BBBC038; Caicedo et al., Nature Methods 2019).

    <root>/[<split>/]<id>/images/<name>.png      one image
    <root>/[<split>/]<id>/masks/*.png            one channel; every pixel that is not 0 is the object's
    <root>/[<split>/]<id>/masks/<class>/*.png    with several classes
    <root>/classes.yaml                          optional: - name: nucleus    (.yml or .json as well)

Class 0 is background, whatever no mask covers; after it come the classes of classes.yaml, or the one class `object`,
all of them things. Masks may overlap: in the semantic map the smaller one is in front. Folders that are called like a
split, as stage1_train is, give the splits; an image of a test folder without masks is left out, as published.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath

from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.objects import class_file, from_file, with_background
from pipelines.data.formats.source import (
    IMAGE_SUFFIXES,
    Item,
    Scan,
    Source,
    paint,
    record,
    segment_of,
    split_named,
)
from pipelines.data.schema import ClassInfo, Record, Segment
from pipelines.data.tree import Files, Tree


@dataclass(frozen=True, kw_only=True, slots=True)
class Masked(Item):
    masks: tuple[str, ...]
    classes: tuple[int, ...]  # of each mask


@dataclass(slots=True)
class Folder:
    images: list[str] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    classes = read_classes(tree, faults)
    folders = _folders(tree, faults)
    if not any(folder.images for folder in folders.values()):
        faults.add("layout", "", "there is no <id>/images/ with an image in it, beside <id>/masks/")
    places = {c.name: k for k, c in enumerate(classes)}
    return Scan(
        classes=classes,
        items=list(_items(folders, places, faults)),
        read=partial(read, files=tree.files),
        labels=labels,
        faults=faults,
    )


def read_classes(tree: Tree, faults: Faults) -> tuple[ClassInfo, ...]:
    if name := class_file(tree):
        with faults.of(name):
            return from_file(tree, name)
    return with_background(["object"])


def _folders(tree: Tree, faults: Faults) -> dict[str, Folder]:
    """Each <id> with the files of its images/ and its masks/."""
    found: dict[str, Folder] = {}
    for name in tree.under(""):
        parts, picture = name.split("/"), PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
        at = next((k for k, part in enumerate(parts[:-1]) if k and part in ("images", "masks")), None)
        if at is None and not picture:
            continue
        if at is None:
            faults.add("name", name, "lies in neither <id>/images/ nor <id>/masks/", name)
            continue
        folder = found.setdefault("/".join(parts[:at]), Folder())
        if parts[at] == "masks":
            folder.masks.append(name)  # whatever its suffix: an object without its mask would be background
        elif picture:
            folder.images.append(name)
        else:
            said = f"suffix not allowed (allowed: {', '.join(IMAGE_SUFFIXES)})"
            faults.add("suffix-unknown", name, said, "/".join(parts[:at]))
    return found


def _items(folders: dict[str, Folder], places: dict[str, int], faults: Faults) -> Iterator[Masked]:
    wrong = {fault.item for fault in faults}  # it has a file that is not to be read
    for key, folder in folders.items():
        if key in wrong and not folder.images:
            continue  # its image is what is not to be read
        before, split = 0 if key in wrong else len(faults), split_named(key.partition("/")[0]) if "/" in key else None
        if not folder.images:
            faults.add("no-image", folder.masks[0], f"has no image in {key}/images/", key)
            continue
        image = folder.images[0]
        if len(folder.images) > 1:
            faults.add("name-clash", image, f"{len(folder.images)} images in one folder, expected 1", key)
        if not folder.masks:
            kind = "unlabelled" if split == "test" else "no-mask"
            faults.add(kind, image, f"has no masks in {key}/masks/", key)
        classes = []
        for mask in folder.masks:
            with faults.of(mask, key):
                classes.append(_class(mask.removeprefix(f"{key}/masks/"), places))
        if len(faults) == before:
            masks = tuple(folder.masks)
            yield Masked(id=key, split=split, files=(image, *masks), masks=masks, classes=tuple(classes))


def _class(name: str, places: dict[str, int]) -> int:
    """That of masks/<name>."""
    if PurePosixPath(name).suffix.lower() != ".png":
        raise FaultError("suffix-unknown", "suffix not allowed (allowed: .png)")
    folder, _, _ = name.rpartition("/")
    things = [c for c in places if places[c]]
    if not folder and len(things) == 1:
        return places[things[0]]
    if not folder:
        raise FaultError("instance-label", f"lies in no folder of a class: masks/{{{', '.join(things)}}}/")
    if folder not in things:
        raise FaultError("unknown-category", f"'{folder}' is no class (classes: {', '.join(things)})")
    return places[folder]


def labels(item: Masked) -> frozenset[int]:
    return frozenset(item.classes)


def read(item: Masked, *, files: Files) -> Record:
    """Every file of the item is decoded before the first fault is raised."""
    faults = Faults()
    picture, sizes = None, set[tuple[int, ...]]()
    with faults.of(item.name, item.id):
        picture = files.image(item.name)
    segments: list[Segment] = []
    for name, category in zip(item.masks, item.classes, strict=True):
        with faults.of(name, item.id):
            mask = files.mask(name) != 0
            if picture and mask.shape not in (picture.upright, picture.pixels.size[::-1]):
                said = f"mask {mask.shape[1]}x{mask.shape[0]}, image {picture.upright[1]}x{picture.upright[0]}"
                raise FaultError("size-mismatch", said)
            sizes.add(mask.shape)
            if segment := segment_of(mask, category=category):
                segments.append(segment)
            else:
                raise FaultError("covers-nothing", "covers no pixel, left out")
    if len(sizes) > 1:
        faults.add("size-mismatch", item.name, f"has masks of {len(sizes)} sizes", item.id)
    faults.check(item.id)
    assert picture is not None  # noqa: S101 - or there were faults
    ((height, width),) = sizes
    semantic, front_first = paint(segments, height, width, background=0)
    return record(item, picture, semantic, front_first, faults)
