"""Records into COCO's detection format, so that format `coco` reads the same images, splits and objects again.

    <out>/<split>/<id>.{jpg,png}                  the image's bytes as the record holds them; an id that begins with its
                                                  split is not given it twice
    <out>/annotations/instances_<split>.json      written last, whole or not at all; objects as compressed RLE

The categories are the thing classes, from 1 on. Stuff and ignored pixels are left out: the format has no place for
them.
"""

import io
import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from PIL import Image

from pipelines import files
from pipelines.data import rle
from pipelines.data.formats.objects import with_background
from pipelines.data.schema import ClassInfo, Record
from pipelines.errors import DataError


class _Writer:
    """One split's json: annotations as they come, the images at its end."""

    def __init__(self, file: IO[str]):
        self.file, self.images = file, list[dict[str, Any]]()
        self.annotations = 0
        file.write('{"annotations": [')

    def add(self, record: Record, file_name: str, categories: dict[int, int]) -> None:
        number = len(self.images) + 1
        size = {"height": record.height, "width": record.width}
        self.images.append({"id": number, "file_name": file_name, **size})
        for segment in record.segments:
            self.file.write(",\n" if self.annotations else "\n")
            self.annotations += 1
            row = {
                "id": self.annotations,
                "image_id": number,
                "category_id": categories[segment.category],
                "iscrowd": int(segment.iscrowd),
                "area": segment.area,
                "bbox": segment.bbox,
                "segmentation": {"size": [record.height, record.width], "counts": rle.to_string(segment.counts)},
            }
            json.dump(row, self.file)

    def end(self, categories: list[dict[str, Any]]) -> None:
        self.file.write('],\n"images": ')
        json.dump(self.images, self.file)
        self.file.write(',\n"categories": ')
        json.dump(categories, self.file)
        self.file.write("}\n")


def write(records: Iterable[Record], classes: Sequence[ClassInfo], out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty", do="name a new folder")
    things = [k for k, c in enumerate(classes) if c.isthing]
    with_background([classes[k].name for k in things])  # or it could not be read again
    categories = {k: number for number, k in enumerate(things, start=1)}
    writers: dict[str, _Writer] = {}
    written: set[str] = set()
    with ExitStack() as stack:
        for record in records:
            if record.split not in writers:
                path = out / f"annotations/instances_{record.split}.json"
                writers[record.split] = _Writer(stack.enter_context(files.replacing(path)))
            name = _file_name(record)
            place = f"{record.split}/{PurePosixPath(name).with_suffix('')}".casefold()
            if place in written:
                raise DataError(f"{record.id}: the id is there twice, or differs from another in case only")
            written.add(place)
            _write_image(record, out / record.split / name)
            writers[record.split].add(record, name, categories)
        for writer in writers.values():
            writer.end([{"id": number, "name": classes[k].name} for k, number in categories.items()])


def _file_name(record: Record) -> str:
    path = PurePosixPath(record.id)
    if path.is_absolute() or str(path) != record.id or any(part.startswith(".") for part in path.parts):
        raise DataError(f"{record.id!r}: the id is no path below a folder, or hidden")
    suffix = "jpg" if record.format == "jpeg" else "png"
    return f"{record.id.removeprefix(f'{record.split}/')}.{suffix}"


def _write_image(record: Record, path: Path) -> None:
    data = bytes(record.image)
    if record.format == "raw":
        file = io.BytesIO()
        Image.fromarray(np.frombuffer(data, np.uint8).reshape(record.height, record.width, 3)).save(file, "PNG")
        data = file.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
