"""labelme's JSON files, one per image, as it saves them (https://github.com/wkentaro/labelme).

    <root>/**/<name>.json    shapes, imagePath (relative to the file) and imageData (the image in base64, or null)
    <root>/labels.txt        optional: the classes, a line each, as labelme's own converters take them
    <root>/classes.yaml      optional, in its stead: - name: car    (.yml or .json as well)

Class 0 is background; after it come the classes that are listed or, without a list, all labels in alphabetical order,
all of them things. Shapes are polygons, rectangles (two corners), circles (centre, and a point of the rim) or masks
(PNG in base64, between two corners); those of the same label and group_id are parts of one object. As in labelme's
converters a later shape lies over the earlier ones, `__ignore__` makes ignored pixels and `_background_` makes
background: objects lose what lies under one of these. An image file is taken as EXIF turns it, as labelme shows it;
where there is none, the image is imageData's, as it is stored. Flags are not read.
"""

import base64
import binascii
import posixpath
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, StringConstraints, TypeAdapter, ValidationError

from pipelines.data import decode, polygons, rle
from pipelines.data.classes import said
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.objects import CLASS_FILES, class_file, from_file, with_background
from pipelines.data.formats.source import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    Item,
    Scan,
    Source,
    key_of,
    once,
    record,
    segment_of_counts,
)
from pipelines.data.json_elements import Element, elements
from pipelines.data.schema import IGNORE, ClassInfo, Record, Segment
from pipelines.data.tree import Files, Tree
from pipelines.errors import bounded

LABELS = "labels.txt"
SPECIAL = {"_background_": 0, "__ignore__": IGNORE}  # labels that are no class, and what their pixels become
Value = int | float


@dataclass(frozen=True, slots=True)
class Shape:
    label: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]  # as labels.txt is read
    points: Annotated[list[list[Value]], Field(max_length=1 << 20)]
    shape_type: Literal["polygon", "rectangle", "circle", "mask"] | None = None
    group_id: int | str | None = None
    mask: str | None = None


@dataclass(slots=True)
class Labels:
    """What a file says."""

    path: str = ""
    data: str | None = None
    size: tuple[Any, Any] = (None, None)  # height and width
    shapes: list[tuple[str, Shape]] = field(default_factory=list)  # what messages call it


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled(Item):
    labels: str  # the json
    embedded: bool  # the image is in it
    shown: tuple[int, ...]  # classes


SHAPE = TypeAdapter(Shape)


def scan(source: Source) -> Scan:
    tree, faults = source.folder, Faults()
    found = list(_found(tree, faults))
    classes = _classes(tree, sorted({label for _, labels in found for label in labels}), faults)
    places = {c.name: k for k, c in enumerate(classes) if k} | SPECIAL
    named_by: list[tuple[str, Labelled]] = []
    for item, labels in found:
        if unknown := [label for label in labels if label not in places]:
            listed = ", ".join(bounded([repr(label) for label in unknown], 10))
            faults.add("unknown-category", item.labels, f"labels {listed} are not in the list of classes", item.id)
        else:
            shown = tuple(sorted({places[label] for label in labels} - {0, IGNORE}))
            named_by.append((item.labels, replace(item, shown=shown)))
    items = once(named_by, faults)
    _check_unlabelled(tree, {item.id for item, _ in found}, faults)
    return Scan(
        classes=classes,
        items=items,
        read=partial(read, files=tree.files, places=places),
        labels=present,
        faults=faults,
    )


def _found(tree: Tree, faults: Faults) -> Iterator[tuple[Labelled, list[str]]]:
    """What each file labels, and the labels in it. Nothing else is kept: an image may be in it, too."""
    for name in tree.under("", (".json",)):
        if name in CLASS_FILES:
            continue
        with faults.of(name, key_of(name)):
            labels = parse(tree.files.read(name))
            image = posixpath.normpath(posixpath.join(posixpath.dirname(name), labels.path.replace("\\", "/")))
            embedded = labels.data is not None and image not in tree
            if not embedded:
                tree.check(image)
            key, files = (key_of(name), (name,)) if embedded else (key_of(image), (image, name))
            used = sorted({shape.label for _, shape in labels.shapes})
            yield Labelled(id=key, split=None, files=files, labels=name, embedded=embedded, shown=()), used


def _classes(tree: Tree, labels: list[str], faults: Faults) -> tuple[ClassInfo, ...]:
    listed = LABELS if LABELS in tree else class_file(tree)
    with faults.of(listed or "labels"):
        if listed == LABELS:
            labels = tree.files.read(LABELS, limit=1 << 20).decode("utf-8-sig", errors="replace").splitlines()
        elif listed:
            return from_file(tree, listed)
        return with_background([name.strip() for name in labels if name.strip() and name.strip() not in SPECIAL])
    return with_background([])


def _check_unlabelled(tree: Tree, labelled: Set[str], faults: Faults) -> None:
    if not labelled and not faults:
        faults.add("layout", "", "there is no JSON file of labelme's")
    known = labelled | {fault.item for fault in faults}
    for name in tree.under("", IMAGE_SUFFIXES + OTHER_SUFFIXES):
        if key_of(name) in known:
            continue
        if name.lower().endswith(IMAGE_SUFFIXES):
            faults.add("no-mask", name, "no JSON file labels it", key_of(name))
        else:
            said = f"suffix not allowed (allowed: {', '.join(IMAGE_SUFFIXES)})"
            faults.add("suffix-unknown", name, said, key_of(name))


def parse(data: bytes) -> Labels:
    """A file's contents, checked but for the geometry; raises for all that is wrong with it."""
    found, faults = Labels(), Faults()
    try:
        for element in elements(data, ("shapes",)):
            if element.key == "shapes":
                with faults.of(""):
                    found.shapes.append(_shape(element))
            elif element.key == "imagePath" and isinstance(element.value, str):
                found.path = element.value
            elif element.key == "imageData" and isinstance(element.value, str):
                found.data = element.value
            elif element.key == "imageHeight":
                found.size = (element.value, found.size[1])
            elif element.key == "imageWidth":
                found.size = (found.size[0], element.value)
    except FaultError as error:  # of one image, and not of the dataset
        raise FaultError("bad-annotation", f"is no JSON file of labelme's: {error.reason}") from None
    if not found.path and found.data is None:
        faults.add("bad-annotation", "", "has neither imagePath nor imageData")
    faults.check("labelme")
    return found


def _shape(element: Element) -> tuple[str, Shape]:
    label = element.value.get("label") if isinstance(element.value, dict) else None
    called = f"shapes[{element.place}]" + (f" ({label[:80]!r})" if isinstance(label, str) else "")
    if element.fault:
        raise FaultError("bad-annotation", f"{called}: {element.fault}")
    try:
        return called, SHAPE.validate_python(element.value)
    except ValidationError as error:
        raise FaultError("bad-annotation", f"{called}: {'; '.join(bounded(said(error), 5))}") from None


def present(item: Labelled) -> frozenset[int]:
    return frozenset(item.shown)


def read(item: Labelled, *, files: Files, places: Mapping[str, int]) -> Record:
    """The image is decoded, and every shape looked at, before the first fault is raised."""
    faults = Faults()
    labels = picture = None
    with faults.of(item.labels, item.id):
        labels = parse(files.read(item.labels))
    with faults.of(item.name, item.id):
        picture = _picture(item, labels, files)
    faults.check(item.id)
    assert labels is not None  # noqa: S101 - or there were faults
    assert picture is not None  # noqa: S101
    height, width = picture.pixels.size[::-1] if item.embedded else picture.upright
    if any(said not in (None, size) for said, size in zip(labels.size, (height, width), strict=True)):
        said = f"imageWidth x imageHeight {labels.size[1]!r:.20}x{labels.size[0]!r:.20}, image {width}x{height}"
        faults.add("size-mismatch", item.labels, said, item.id)
        faults.check(item.id)
    shapes = list(_filled(labels.shapes, height, width, item=item, faults=faults))
    faults.check(item.id)
    semantic, segments = _layered(shapes, places, height, width)
    for name, segment in segments.items():
        if segment is None:
            faults.add("covers-nothing", item.labels, f"{name}: covers no pixel, left out", item.id)
    if not labels.shapes:
        faults.add("no-annotations", item.labels, "has no shapes: all of it is background", item.id)
    front_first = [segment for segment in reversed(segments.values()) if segment]
    return record(item, picture, semantic, front_first, faults, turned=not item.embedded)


def _picture(item: Labelled, labels: Labels | None, files: Files) -> decode.Picture | None:
    if not item.embedded:
        return files.image(item.name)
    return decode.image(_bytes(labels.data or "", "imageData"), depth=files.depth) if labels else None


def _bytes(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FaultError("bad-annotation", f"{what} is not base64") from None


def _filled(
    shapes: list[tuple[str, Shape]], height: int, width: int, *, item: Labelled, faults: Faults
) -> Iterator[tuple[str, Shape, np.ndarray]]:
    """The shapes with their run lengths."""
    for called, shape in shapes:
        try:
            filled = fill(shape, height, width)
        except FaultError as error:
            faults.add(error.kind, item.labels, f"{called}: {error.reason}", item.id)
            continue
        for kind, reason in filled.changes:
            faults.add(kind, item.labels, f"{called}: {reason}", item.id)
        yield called, shape, filled.counts


def fill(shape: Shape, height: int, width: int) -> polygons.Filled:
    """A shape's pixels."""
    if shape.shape_type in (None, "polygon"):
        return polygons.fill([shape.points], height, width)
    points = polygons.outline(shape.points)
    if len(points) != 2:
        raise FaultError("bad-polygon", f"a {shape.shape_type} has {len(points)} points, expected 2")
    (x0, y0), (x1, y1) = points.tolist()
    if shape.shape_type == "rectangle":
        return polygons.fill([[x0, y0, x1, y0, x1, y1, x0, y1]], height, width)
    if shape.shape_type == "circle":
        return polygons.fill([_rim(x0, y0, float(np.hypot(x1 - x0, y1 - y0)))], height, width)
    return _placed(shape, int(x0), int(y0), int(x1), int(y1), height, width)


def _rim(x: float, y: float, radius: float) -> list[list[float]]:
    """A polygon that differs from the circle by less than a tenth of a pixel."""
    sides = max(12, int(np.ceil(np.pi / np.arccos(1 - 0.1 / max(radius, 0.2)))))
    angles = np.arange(sides) * 2 * np.pi / sides
    rim: list[list[float]] = np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], 1).tolist()
    return rim


def _placed(shape: Shape, x0: int, y0: int, x1: int, y1: int, height: int, width: int) -> polygons.Filled:
    """A mask whose corners are its first and last pixel."""
    mask = decode.mask(_bytes(shape.mask or "", "mask")) != 0
    if mask.shape != (y1 - y0 + 1, x1 - x0 + 1):
        said = f"mask {mask.shape[1]}x{mask.shape[0]}, its points say {x1 - x0 + 1}x{y1 - y0 + 1}"
        raise FaultError("size-mismatch", said)
    within = mask[max(-y0, 0) : max(height - y0, 0), max(-x0, 0) : max(width - x0, 0)]
    if not within.size:
        raise FaultError("outside-image", f"lies wholly outside the image of {width}x{height}")
    whole = np.zeros((height, width), bool)
    x, y = max(x0, 0), max(y0, 0)
    whole[y : y + within.shape[0], x : x + within.shape[1]] = within
    changes = (("clipped", f"reaches out of the image of {width}x{height}, clipped"),) * (within.size < mask.size)
    return polygons.Filled(counts=rle.encode(whole), changes=changes)


def _layered(
    shapes: list[tuple[str, Shape, np.ndarray]], places: Mapping[str, int], height: int, width: int
) -> tuple[np.ndarray, dict[str, Segment | None]]:
    """The semantic map, and the objects by the name of their first shape, the last one drawn last."""
    semantic = np.zeros((height, width), np.uint8)
    objects: dict[Any, tuple[str, int, np.ndarray]] = {}
    for called, shape, counts in shapes:
        place = places[shape.label]
        semantic[rle.decode(counts, height, width)] = place
        if shape.label in SPECIAL:
            objects = {k: (name, c, rle.without(mask, counts)) for k, (name, c, mask) in objects.items()}
            continue
        key = called if shape.group_id is None else (shape.label, shape.group_id)
        name, _, mask = objects.pop(key, (called, place, counts))
        objects[key] = (name, place, rle.union([mask, counts]))
    found = objects.values()
    return semantic, {n: segment_of_counts(mask, height, category=c) for n, c, mask in found}
