"""Records into PASCAL VOC's layout, so that format `voc` reads the same ids, splits, semantic maps and segments again.

    <out>/JPEGImages/<id>.{jpg,png}             the image's bytes as the record holds them
    <out>/SegmentationClass/<id>.png            class ids with VOC's palette, 255 where pixels are ignored
    <out>/SegmentationObject/<id>.png           objects 1, 2, ..., in the order of the segments; 255 where pixels are
                                                ignored and of no object. Not there where no class is a thing
    <out>/ImageSets/Segmentation/<split>.txt    written last; trainval.txt is train and val
    <out>/classes.yaml                          where the classes are others than VOC's

VOC cannot hold crowds, objects that overlap, more than 254 of them, or one whose class is not that of most of its
pixels in the semantic map. All such records are named in one error, and then there are no lists.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from pipelines import files
from pipelines.data import classes as tables
from pipelines.data import rle
from pipelines.data.classes import color
from pipelines.data.formats.voc import LISTS, MASKS, OBJECTS
from pipelines.data.schema import IGNORE, SPLITS, ClassInfo, Record
from pipelines.errors import DataError, bounded

MOST = IGNORE - 1  # objects of an image
PALETTE = [channel for index in range(256) for channel in color(index - 1)]


def write(records: Iterable[Record], classes: Sequence[ClassInfo], out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty", do="name a new folder")
    lists: dict[str, list[str]] = {split: [] for split in SPLITS}
    written: set[str] = set()
    wrong: list[str] = []
    for record in records:
        objects = np.zeros((record.height, record.width), np.uint16)
        faults = [*_bad_id(record.id, written), *_painted(record, classes, objects)]
        written.add(record.id.casefold())
        wrong += [f"{record.id}: {fault}" for fault in faults]
        if not faults:
            _write_image(record, out / "JPEGImages")
            _write_mask(record.semantic, out / MASKS[0] / f"{record.id}.png")
            if any(c.isthing for c in classes):
                objects[(record.semantic == IGNORE) & (objects == 0)] = IGNORE
                _write_mask(objects.astype(np.uint8), out / OBJECTS / f"{record.id}.png")
            lists[record.split].append(record.id)
    if wrong:
        raise DataError(
            f"{len(wrong)} things that PASCAL VOC cannot hold", bounded(wrong), do="write only the other records"
        )
    if tuple(classes) != tables.published("voc").classes:
        rows = [{"name": c.name, "color": list(c.color), "isthing": c.isthing} for c in classes]
        files.write_yaml(out / "classes.yaml", rows)
    for split, ids in {**lists, "trainval": [*lists["train"], *lists["val"]]}.items():
        if ids:
            files.write_text(out / LISTS[0] / f"{split}.txt", "".join(f"{i}\n" for i in ids))


def _bad_id(identity: str, written: set[str]) -> Iterator[str]:
    path = PurePosixPath(identity)
    hidden = any(part.startswith(".") for part in path.parts)
    if path.is_absolute() or hidden or str(path) != identity or not identity.isprintable():
        yield "the id is no path below a folder, or hidden"
    if identity != identity.strip():
        yield "the id begins or ends with a space"
    if identity.casefold() in written:
        yield "the id is there twice, or differs from another in case only"


def _painted(record: Record, classes: Sequence[ClassInfo], objects: np.ndarray) -> Iterator[str]:
    """Paints the objects; yields what stands against it."""
    segments = list(record.segments)
    if len(segments) > MOST:
        yield f"{len(segments)} objects, allowed are {MOST}"
        return
    for k, segment in enumerate(segments, start=1):
        mask = rle.decode(segment.counts, record.height, record.width)
        votes = np.bincount(record.semantic[mask], minlength=256)[:IGNORE]
        name = f"object {k} ('{classes[segment.category].name}')"
        if segment.iscrowd:
            yield f"{name} is a crowd"
        elif objects[mask].any():
            yield f"{name} overlaps another"
        elif not votes.any() or votes.argmax() != segment.category:
            yield f"{name} has another class in the semantic map"
        objects[mask] = k


def _write_image(record: Record, folder: Path) -> None:
    data = bytes(record.image)
    if record.format == "raw":
        pixels = np.frombuffer(data, np.uint8).reshape(record.height, record.width, 3)
        data = _png(Image.fromarray(pixels))
    _write_bytes(folder / f"{record.id}.{'jpg' if record.format == 'jpeg' else 'png'}", data)


def _write_mask(indices: np.ndarray, path: Path) -> None:
    picture = Image.fromarray(indices)
    picture.putpalette(PALETTE)
    _write_bytes(path, _png(picture))


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
