"""COCO's panoptic format, as published (https://cocodataset.org/#format-data).

    <root>/annotations/panoptic_<name>.json    images, annotations with segments_info, categories
    <root>/annotations/panoptic_<name>/*.png   segment ids, R + 256 G + 256^2 B (or <root>/panoptic_<name>/)
    <root>/<name>/*                            the images (or <root>/images/<name>/, or <root>/images/)

<name> is train2017, val2017, ...; the split that it names is the images' split, and where it names none
`dataset.splits` gives fractions. A class's id is its category's place in `categories`. Pixels of no segment are
ignored. The masks are the truth: areas and boxes are computed from them, those in the file are not read. Of images that
no panoptic_*.json names, those of test*/ and unlabeled*/ folders are left out as published so; any other is a fault,
and so is an image that two files name.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.data import decode, runs
from pipelines.data.classes import check_count, color, duplicates, said
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats import coco
from pipelines.data.formats.source import (
    Item,
    Readers,
    Scan,
    Source,
    key_of,
    labelled,
    once,
    opened,
    record,
    segment,
    split_named,
)
from pipelines.data.schema import IGNORE, ClassInfo, Record
from pipelines.data.tree import MAX_JSON_BYTES, Files, Tree
from pipelines.errors import bounded

SegmentId = Annotated[int, Field(strict=True, gt=0, lt=1 << 24)]
CategoryId = Annotated[int, Field(strict=True)]
ImageId = Annotated[int | str, Field(union_mode="left_to_right")]
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True, slots=True)
class Category:
    id: CategoryId
    name: Annotated[str, Field(min_length=1)]
    isthing: bool
    color: tuple[Byte, Byte, Byte] | None = None


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    id: SegmentId
    category_id: CategoryId
    iscrowd: bool = False


@dataclass(frozen=True, slots=True)
class Annotation:
    image_id: ImageId
    file_name: str
    segments_info: Annotated[list[SegmentInfo], Field(max_length=(1 << 16) - 1)]


@dataclass(frozen=True, slots=True)
class Image:
    id: ImageId
    file_name: str


@dataclass(frozen=True, slots=True)
class Published:
    """A panoptic json: of its many fields, those that say something new."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


@dataclass(frozen=True, kw_only=True, slots=True)
class Painted(Item):
    mask: str
    segments: tuple[tuple[int, int, bool], ...]  # id, class, iscrowd


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    names = [n for n in tree.under("annotations", (".json",)) if PurePosixPath(n).name.startswith("panoptic")]
    if not names:
        faults.add("layout", "annotations", "holds no panoptic*.json: set dataset.root to the dataset's folder")
    files: dict[str, Published] = {}
    for name in names:
        with faults.of(name):
            files[name] = _parse(tree.files.read(name, limit=MAX_JSON_BYTES))
    categories = next((published.categories for published in files.values()), [])
    classes = tuple(
        ClassInfo(name=c.name, color=c.color or color(i), isthing=c.isthing) for i, c in enumerate(categories)
    )
    named_by: list[tuple[str, Painted]] = []
    for name, published in files.items():
        if published.categories != categories:
            faults.add("class-table", name, f"has other categories than {next(iter(files))}")
            continue
        with faults.of(name):
            named_by += [(name, item) for item in _items(tree, name, published, faults)]
    items = once(named_by, faults)
    known = {item.id for _, item in named_by} | {fault.item for fault in faults}
    coco.check_unnamed(tree, faults, known, said="no panoptic_*.json names it")
    return Scan(
        classes=classes,
        items=items,
        read=partial(read, files=tree.files, things=frozenset(i for i, c in enumerate(classes) if c.isthing)),
        labels=labels,
        faults=faults,
    )


def _parse(data: bytes) -> Published:
    try:
        published = TypeAdapter(Published).validate_json(data)
    except ValidationError as error:
        raise FaultError("unreadable-json", f"not as expected: {'; '.join(bounded(said(error), 10))}") from None
    check_count(len(published.categories))
    keys: dict[str, Iterable[int | str]] = {
        "category id": (c.id for c in published.categories),
        "category name": (c.name for c in published.categories),
    }
    for what, values in keys.items():
        if twice := duplicates(values):
            raise FaultError("class-table", f"{what} {twice[0]!r} is there twice")
    return published


def _named(json: str) -> str:
    """annotations/panoptic_train2017.json -> train2017"""
    return PurePosixPath(json).stem.removeprefix("panoptic").lstrip("_")


def _images(tree: Tree, json: str) -> str:
    return tree.first_folder(_named(json), f"images/{_named(json)}", "images")


def _items(tree: Tree, name: str, published: Published, faults: Faults) -> Iterator[Painted]:
    """The usable pairs of one json; what is not usable goes to `faults`."""
    stem, images = PurePosixPath(name).stem, _images(tree, name)
    masks = tree.first_folder(f"annotations/{stem}", stem)
    classes = {category.id: k for k, category in enumerate(published.categories)}
    twice = {
        "image id": set(duplicates(i.id for i in published.images)),
        "image file_name": set(duplicates(i.file_name for i in published.images)),
        "annotation image_id": set(duplicates(a.image_id for a in published.annotations)),
    }
    annotations = {annotation.image_id: annotation for annotation in published.annotations}
    known = {image.id for image in published.images}
    for a in published.annotations:
        if a.image_id not in known:
            said = f"annotation {a.file_name} names image {a.image_id!r}, which is not in images"
            faults.add("unknown-image", name, said, a.file_name)
    for image in published.images:
        path = str(PurePosixPath(images, image.file_name))
        key, before = key_of(path), len(faults)
        values = {"image id": image.id, "image file_name": image.file_name, "annotation image_id": image.id}
        for what, value in values.items():
            if value in twice[what]:
                faults.add("duplicate-id", path, f"{what} {value!r} is there twice in {name}", key)
        annotation = annotations.get(image.id)
        if annotation is None:
            faults.add("no-mask", path, f"image {image.file_name} has no annotation in {name}", key)
            continue
        mask = str(PurePosixPath(masks, annotation.file_name))
        for part in (path, mask):
            with faults.of(part, key):
                tree.check(part)
        with faults.of(mask, key):
            segments = _segments(annotation, classes)
        if len(faults) == before:
            yield Painted(id=key, split=split_named(_named(name)), files=(path, mask), mask=mask, segments=segments)


def _segments(annotation: Annotation, classes: Mapping[int, int]) -> tuple[tuple[int, int, bool], ...]:
    if twice := duplicates(info.id for info in annotation.segments_info):
        raise FaultError("duplicate-id", f"segment ids {twice} are there twice")
    if unknown := sorted({info.category_id for info in annotation.segments_info} - set(classes)):
        raise FaultError("unknown-category", f"category ids {unknown} are not in categories")
    return tuple((info.id, classes[info.category_id], info.iscrowd) for info in annotation.segments_info)


def labels(item: Painted) -> frozenset[int]:
    return frozenset(category for _, category, _ in item.segments)


def read(item: Painted, *, files: Files, things: frozenset[int]) -> Record:
    declared = [identity for identity, _, _ in item.segments]
    readers: Readers = {
        item.mask: lambda: _labels(decode.rgb_ids(files.read(item.mask)), declared),
        item.name: lambda: files.image(item.name),
    }
    painted, picture = opened(item, readers)
    categories = np.array([IGNORE, *(category for _, category, _ in item.segments)], np.uint8)
    segments = []
    for label, box in labelled(painted):
        _, category, iscrowd = item.segments[label - 1]
        if category in things:
            segments.append(segment(painted, label, box, category=category, iscrowd=iscrowd))
    return record(item, picture, categories[painted], segments)


def _labels(ids: np.ndarray, declared: list[int]) -> np.ndarray:
    """Segment ids -> uint16[h, w]: 0 for none, and from 1 on the places in `declared`."""
    labels, unknown = runs.places(ids, declared)
    said = []
    if unknown:
        said.append(f"ids {unknown[:10]} are painted, and not in segments_info")
    painted = {label for label, _ in labelled(labels)}
    if absent := [identity for k, identity in enumerate(declared, start=1) if k not in painted]:
        said.append(f"ids {absent[:10]} are in segments_info, and not painted")
    if said:
        raise FaultError("instance-label", "; ".join(said))
    return labels
