"""COCO's panoptic format, as published (https://cocodataset.org/#format-data).

    <root>/annotations/panoptic_<name>.json    images, annotations with segments_info, categories
    <root>/annotations/panoptic_<name>/*.png   segment ids, R + 256 G + 256^2 B (or <root>/panoptic_<name>/)
    <root>/<name>/*                            the images (or <root>/images/<name>/, or <root>/images/)

<name> is train2017, val2017, ...; the split that it names is the images' split, and where it names none
`dataset.splits` gives fractions. A class's id is its category's place in `categories`. Pixels of no segment are
ignored. The masks are the truth: areas and boxes are computed from them, those in the file are not read.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated, cast

import numpy as np
from pydantic import Field, TypeAdapter

from pipelines.data import decode
from pipelines.data.formats.source import (
    Faults,
    Scan,
    Source,
    check_count,
    check_inside,
    color,
    contents,
    duplicates,
    folder,
    labelled,
    parsing,
    segment,
    split_of,
)
from pipelines.data.schema import IGNORE, ClassInfo, Record, Split
from pipelines.errors import DataError

MAX_JSON_BYTES = 1 << 31
NAMED_SPLIT = re.compile(r"(?<![a-z])(train|val|test)(?![a-z])")

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
class Item:
    """Paths within the root; segments with class ids."""

    id: str
    split: Split
    image: str
    mask: str
    segments: tuple[tuple[int, int, bool], ...]  # id, class, iscrowd


def scan(source: Source) -> Scan:
    root, faults = folder(source.root), Faults()
    paths = sorted((root / "annotations").glob("panoptic*.json"))
    if not paths:
        raise DataError(f"{root} holds no annotations/panoptic*.json", do="set dataset.root to the dataset's folder")
    files: dict[Path, Published] = {}
    for path in paths:
        with faults.of(path.name):
            files[path] = _parse(root, path)
    faults.check(f"{root / 'annotations'} cannot be used")
    categories = files[paths[0]].categories
    items: dict[str, Item] = {}
    for path, published in files.items():
        if published.categories != categories:
            faults.append(f"{path.name}: has other categories than {paths[0].name}")
            continue
        with faults.of(path.name):
            for item in _items(root, path, published, source.splits, faults):
                if item.id in items:
                    faults.append(f"{path.name}: {item.image} is there twice, also as {items[item.id].image}")
                items[item.id] = item
    classes = tuple(
        ClassInfo(name=c.name, color=c.color or color(i), isthing=c.isthing) for i, c in enumerate(categories)
    )
    return Scan(
        classes=classes,
        items=list(items.values()),
        read=partial(read, root=root, things=frozenset(i for i, c in enumerate(classes) if c.isthing)),
        name=lambda item: item.image,
        faults=faults,
    )


def _parse(root: Path, path: Path) -> Published:
    check_inside(root, str(path))
    with parsing("the file"):
        published = TypeAdapter(Published).validate_json(contents(path, limit=MAX_JSON_BYTES))
    check_count("categories", len(published.categories))
    keys: dict[str, Iterable[int | str]] = {
        "category id": (c.id for c in published.categories),
        "category name": (c.name for c in published.categories),
        "image id": (i.id for i in published.images),
        "image file_name": (i.file_name for i in published.images),
        "annotation image_id": (a.image_id for a in published.annotations),
    }
    twice = [f"{what} {key!r} is there twice" for what, values in keys.items() for key in duplicates(values)]
    if twice:
        raise DataError("duplicates", twice)
    return published


def _items(root: Path, path: Path, published: Published, splits: Mapping[str, float], faults: Faults) -> Iterator[Item]:
    """The usable pairs of one json; what is not usable goes to `faults`."""
    name = path.stem.removeprefix("panoptic").lstrip("_")
    images = _first_folder(root, (name, f"images/{name}", "images"))
    masks = _first_folder(root, (f"annotations/{path.stem}", path.stem))
    named = NAMED_SPLIT.search(name)
    classes = {category.id: k for k, category in enumerate(published.categories)}
    annotations = {annotation.image_id: annotation for annotation in published.annotations}
    known = {image.id for image in published.images}
    faults += [
        f"{path.name}: annotation {a.file_name} names image {a.image_id!r}, which is not in images"
        for a in published.annotations
        if a.image_id not in known
    ]
    for image in published.images:
        annotation = annotations.get(image.id)
        if annotation is None:
            faults.append(f"{path.name}: image {image.file_name} has no annotation")
            continue
        before = len(faults)
        pair = [str(PurePosixPath(images, image.file_name)), str(PurePosixPath(masks, annotation.file_name))]
        for part in pair:
            with faults.of(part):
                check_inside(root, part)
        with faults.of(f"{path.name}: annotation {annotation.file_name}"):
            segments = _segments(annotation, classes)
        if len(faults) == before:
            key = str(PurePosixPath(pair[0]).with_suffix(""))
            split = cast(Split, named[1]) if named else split_of(key, splits)
            yield Item(id=key, split=split, image=pair[0], mask=pair[1], segments=segments)


def _first_folder(root: Path, candidates: tuple[str, ...]) -> str:
    for candidate in candidates:
        if (root / candidate).is_dir():
            return candidate
    raise DataError(f"there is none of the folders {', '.join(candidates)} in {root}")


def _segments(annotation: Annotation, classes: Mapping[int, int]) -> tuple[tuple[int, int, bool], ...]:
    if twice := duplicates(info.id for info in annotation.segments_info):
        raise DataError(f"segment ids {twice} are there twice")
    if unknown := sorted({info.category_id for info in annotation.segments_info} - set(classes)):
        raise DataError(f"category ids {unknown} are not in categories")
    return tuple((info.id, classes[info.category_id], info.iscrowd) for info in annotation.segments_info)


def read(item: Item, *, root: Path, things: frozenset[int]) -> Record:
    """Both files are decoded before the first fault is raised."""
    faults = Faults()
    picture = labels = None
    with faults.of(item.mask):
        labels = _labels(decode.rgb_ids(contents(root / item.mask)), [identity for identity, _, _ in item.segments])
    with faults.of(item.image):
        picture = decode.image(contents(root / item.image))
    faults.check(item.id)
    assert labels is not None  # noqa: S101 - or there were faults
    assert picture is not None  # noqa: S101
    with faults.of(item.image):
        image, image_format = picture.fitting(*labels.shape)
    faults.check(item.id)
    categories = np.array([IGNORE, *(category for _, category, _ in item.segments)], np.uint8)
    segments = []
    for label, box in labelled(labels):
        _, category, iscrowd = item.segments[label - 1]
        if category in things:
            segments.append(segment(labels, label, box, category=category, iscrowd=iscrowd))
    height, width = labels.shape
    return Record(
        id=item.id,
        split=item.split,
        image=image,
        format=image_format,
        height=height,
        width=width,
        semantic=categories[labels],
        segments=tuple(segments),
    )


def _labels(ids: np.ndarray, declared: list[int]) -> np.ndarray:
    """Segment ids -> uint16[h, w]: 0 for none, and from 1 on the places in `declared`."""
    faults = Faults()
    table = np.zeros(1 << 24, np.uint16)
    table[declared] = np.arange(1, len(declared) + 1)
    labels: np.ndarray = table[ids]
    if unknown := np.unique(ids[(labels == 0) & (ids > 0)]).tolist():
        faults.append(f"ids {unknown[:10]} are painted, and not in segments_info")
    painted = {label for label, _ in labelled(labels)}
    if absent := [identity for k, identity in enumerate(declared, start=1) if k not in painted]:
        faults.append(f"ids {absent[:10]} are in segments_info, and not painted")
    faults.check("segment ids")
    return labels
