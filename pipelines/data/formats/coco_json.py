"""COCO's instances_*.json, read with the memory of the file and what is kept of it.

What is kept of an annotation is its text, as it stands in the file, zipped with those of its image: a polygon as Python
numbers would take ten times as much. It is looked at twice: here for what it says of itself, and for its geometry where
the image is read.
"""

import json
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from pipelines.data import polygons, rle
from pipelines.data.classes import said
from pipelines.data.decode import MAX_PIXELS
from pipelines.data.faults import FaultError, Faults
from pipelines.data.formats.source import segment_of_counts
from pipelines.data.json_elements import Element, elements
from pipelines.data.schema import Segment
from pipelines.errors import bounded

MOST = 10  # faults of one image's annotations that are told
Integer = Annotated[int, Field(strict=True, ge=-(1 << 63), lt=1 << 63)]
ImageId = Integer | Annotated[str, Field(strict=True)]
Side = Annotated[int, Field(strict=True, ge=1, le=MAX_PIXELS)]


@dataclass(frozen=True, slots=True)
class Category:
    id: Integer
    name: Annotated[str, Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Image:
    id: ImageId
    file_name: Annotated[str, Field(min_length=1)]
    height: Side
    width: Side


@dataclass(frozen=True, slots=True)
class Annotation:
    id: Integer
    image_id: ImageId
    category_id: Integer
    segmentation: list[Any] | dict[str, Any]
    iscrowd: Literal[0, 1, False, True] = 0


@dataclass(slots=True)
class Of:
    """The annotations of one image."""

    texts: list[str] = field(default_factory=list)
    categories: "array[int]" = field(default_factory=lambda: array("q"))
    faults: list[tuple[str, str]] = field(default_factory=list)  # kind, reason

    def zipped(self) -> bytes:
        """To be given to `annotations`."""
        return zlib.compress(f"[{','.join(self.texts)}]".encode(), 1)

    def fault(self, kind: str, reason: str) -> None:
        if len(self.faults) < MOST:
            self.faults.append((kind, reason))


@dataclass(frozen=True, slots=True)
class Instances:
    categories: list[Category]
    images: list[Image]
    annotations: dict[int | str, Of]


IMAGE, CATEGORY, ANNOTATION = TypeAdapter(Image), TypeAdapter(Category), TypeAdapter(Annotation)


def parse(data: bytes, name: str, faults: Faults) -> Instances:
    """Raises where the file is none of COCO's; what is wrong with one image goes to `faults`, or to its annotations."""
    found = Instances([], [], {})
    ids, owners, owned = array("q"), array("q"), dict[int | str, int]()
    for element in elements(data, ("images", "annotations", "categories")):
        if element.key == "annotations":
            annotation = _annotation(element, found.annotations)
            if annotation is not None:
                ids.append(annotation.id)
                owners.append(owned.setdefault(annotation.image_id, len(owned)))
        elif element.key == "categories":
            found.categories.append(_valid(CATEGORY, element, "unreadable-json"))
        elif element.key == "images":
            where = f"images[{element.place}]"
            with faults.of(name, f"{name} {where}"):
                found.images.append(_valid(IMAGE, element, "bad-annotation"))
    _check_ids(ids, owners, list(owned), found.annotations)
    known = {category.id for category in found.categories}
    for of in found.annotations.values():
        if unknown := sorted(set(of.categories) - known):
            listed = ", ".join(bounded([str(c) for c in unknown], 10))
            of.fault("unknown-category", f"category ids {listed} are not in categories")
    return found


def _annotation(element: Element, annotations: dict[int | str, Of]) -> Annotation | None:
    """What is wrong with it is kept with its image; without an image, nothing can be left out."""
    try:
        annotation: Annotation = _valid(ANNOTATION, element, "bad-annotation")
    except FaultError as error:
        image = element.value.get("image_id") if isinstance(element.value, dict) else None
        if not isinstance(image, int | str):
            raise FaultError("unreadable-json", error.reason) from None
        annotations.setdefault(image, Of()).fault(error.kind, error.reason)
        return None
    of = annotations.setdefault(annotation.image_id, Of())
    of.texts.append(element.text)
    of.categories.append(annotation.category_id)
    return annotation


def _valid(adapter: TypeAdapter[Any], element: Element, kind: str) -> Any:
    try:
        if element.fault:
            raise FaultError(kind, f"{_called(element)}: {element.fault}")
        return adapter.validate_python(element.value)
    except ValidationError as error:
        raise FaultError(kind, f"{_called(element)}: {'; '.join(bounded(said(error), 5))}") from None


def _called(element: Element) -> str:
    """annotation 17, by its id; annotations[3], where it has none."""
    identity = element.value.get("id") if isinstance(element.value, dict) else None
    if element.key == "annotations" and type(identity) is int:
        return f"annotation {identity}"
    return f"{element.key}[{element.place}]"


def _check_ids(ids: "array[int]", owners: "array[int]", images: list[int | str], annotations: Mapping[Any, Of]) -> None:
    values, where = np.asarray(ids, np.int64), np.asarray(owners, np.int64)
    order = np.argsort(values, kind="stable")
    again = values[order][1:] == values[order][:-1]
    twice = np.concatenate([[False], again]) | np.concatenate([again, [False]]) if values.size else again
    for identity, image in sorted(set(zip(values[order][twice].tolist(), where[order][twice].tolist(), strict=True))):
        annotations[images[image]].fault("duplicate-id", f"annotation {identity}: the id is there twice")


def annotations(zipped: bytes) -> Iterator[tuple[int, bool, Any]]:
    """id, iscrowd and segmentation of each."""
    try:
        found = json.loads(zlib.decompress(zipped))
    except RecursionError:
        raise FaultError("bad-annotation", "an annotation is nested too deeply") from None
    return ((a["id"], bool(a.get("iscrowd", 0)), a["segmentation"]) for a in found)


def segments(
    zipped: bytes, classes: tuple[int, ...], height: int, width: int, *, source: str, item: str, faults: Faults
) -> list[Segment]:
    """The objects of an image of this size. What is wrong, and what is mended, goes to `faults`."""
    found = []
    for (identity, iscrowd, segmentation), category in zip(annotations(zipped), classes, strict=True):
        called = f"annotation {identity}"
        try:
            filled = pixels(segmentation, height, width)
        except FaultError as error:
            faults.add(error.kind, source, f"{called}: {error.reason}", item)
            continue
        for kind, reason in filled.changes:
            faults.add(kind, source, f"{called}: {reason}", item)
        segment = segment_of_counts(filled.counts, height, category=category, iscrowd=iscrowd)
        if segment is None:
            faults.add("covers-nothing", source, f"{called}: covers no pixel, left out", item)
        else:
            found.append(segment)
    return found


def pixels(segmentation: Any, height: int, width: int) -> polygons.Filled:
    """Polygons or RLE of either kind."""
    if isinstance(segmentation, list):
        if not segmentation:
            return polygons.Filled(counts=np.array([height * width], np.uint32))
        return polygons.fill(segmentation, height, width)
    size, counts = segmentation.get("size"), segmentation.get("counts")
    if size != [height, width]:
        raise FaultError("bad-rle", f"RLE size {size!r:.60}, expected [{height}, {width}], the image's")
    if isinstance(counts, str):
        return polygons.Filled(counts=rle.from_string(counts, height, width))
    if isinstance(counts, list):
        return polygons.Filled(counts=rle.from_list(counts, height, width))
    raise FaultError("bad-rle", "RLE counts must be text or a list of whole numbers")
