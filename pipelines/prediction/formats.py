"""What becomes of a result: one row for each format that may be asked for.

| format    | of each image                                      | of all                                             |
|-----------|----------------------------------------------------|----------------------------------------------------|
| `rle`     |                                                    | `results.jsonl`: a line for each image, its        |
|           |                                                    | segments with class, score, box, area and run      |
|           |                                                    | lengths, as `pycocotools.mask.decode` reads them   |
| `coco`    | of a panoptic model `panoptic/<stem>.png`          | `panoptic.json`; of others `coco.json`, COCO's     |
|           |                                                    | list of results                                    |
| `png`     | `semantic/<stem>.png`: class ids; of things        | `classes.json`                                     |
|           | `segments/<stem>.png`: 16 bits, the ids of the     |                                                    |
|           | segments, 0 for none                               |                                                    |
| `overlay` | `overlay/<stem>.jpg`                               |                                                    |

Category ids are the model's class ids, from 0 on.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from pipelines import files
from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo
from pipelines.inference.segments import Found, id_map
from pipelines.reporting.encoding import jpeg, png
from pipelines.reporting.overlay import overlay

OURS = ("mark", "stem", "files")  # what the ledger alone is for
Encoded = Iterator[tuple[str, bytes]]  # path within the folder of results, content


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One image or frame, and what was found in it."""

    stem: str
    image: np.ndarray
    prediction: Prediction
    found: Sequence[Found]
    classes: Sequence[ClassInfo]
    alpha: float  # of overlays


class Lines:
    """`results.jsonl`"""

    def __init__(self, out: Path, classes: Sequence[ClassInfo], task: str):
        self.path = out / "results.jsonl"

    def write(self, rows: Callable[[], Iterator[Mapping[str, Any]]]) -> None:
        with files.replacing(self.path) as file:
            for row in rows():
                file.write(f"{json.dumps({k: v for k, v in row.items() if k not in OURS})}\n")


class Coco:
    """`coco.json` or `panoptic.json`, written row by row: they may be larger than memory."""

    def __init__(self, out: Path, classes: Sequence[ClassInfo], task: str):
        self.out, self.classes, self.panoptic = out, classes, task == "panoptic"

    def write(self, rows: Callable[[], Iterator[Mapping[str, Any]]]) -> None:
        numbers = all(row["stem"].isascii() and row["stem"].isdigit() for row in rows())  # as COCO's own images
        with files.replacing(self.out / ("panoptic.json" if self.panoptic else "coco.json")) as file:
            if self.panoptic:
                self._panoptic(file, rows, numbers)
            else:
                _list(file, (result for row in rows() for result in _results(row, numbers)))
                file.write("\n")

    def _panoptic(self, file: IO[str], rows: Callable[[], Iterator[Mapping[str, Any]]], numbers: bool) -> None:
        categories = [
            {"id": i, "name": c.name, "isthing": int(c.isthing), "color": list(c.color)}
            for i, c in enumerate(self.classes)
        ]
        file.write('{"images": ')
        _list(file, (_image(row, numbers) for row in rows()))
        file.write(',\n"annotations": ')
        _list(file, (_annotation(row, numbers) for row in rows()))
        file.write(f',\n"categories": {json.dumps(categories)}}}\n')


class Classes:
    """`classes.json`: what the numbers in the maps mean."""

    def __init__(self, out: Path, classes: Sequence[ClassInfo], task: str):
        self.path = out / "classes.json"
        self.classes = [
            {"id": i, "name": c.name, "isthing": c.isthing, "color": list(c.color)} for i, c in enumerate(classes)
        ]

    def write(self, rows: Callable[[], Iterator[Mapping[str, Any]]]) -> None:
        files.write_json(self.path, self.classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One row of the FORMATS table."""

    pictures: Callable[[Result], Encoded]  # of each image
    listing: type[Lines] | type[Coco] | type[Classes] | None  # of all
    folders: tuple[str, ...]  # that `pictures` writes to


def _nothing(result: Result) -> Encoded:
    yield from ()


def _panoptic_png(result: Result) -> Encoded:
    """COCO's: a segment's id is R + 256 G + 256^2 B."""
    if result.prediction.panoptic is not None:
        ids = id_map(result.found, result.image.shape[:2])
        rgb = np.stack([ids & 255, ids >> 8, np.zeros_like(ids)], axis=-1).astype(np.uint8)
        yield f"panoptic/{result.stem}.png", png(rgb)


def _maps(result: Result) -> Encoded:
    semantic, prediction = result.prediction.semantic, result.prediction
    if semantic is not None:
        yield f"semantic/{result.stem}.png", png(semantic)
    if prediction.panoptic is not None or prediction.instances is not None:
        yield f"segments/{result.stem}.png", png(id_map(result.found, result.image.shape[:2]))


def _overlay(result: Result) -> Encoded:
    picture = overlay(
        result.image,
        [found.mask for found in result.found],
        [found.category for found in result.found],
        [c.color for c in result.classes],
        alpha=result.alpha,
    )
    yield f"overlay/{result.stem}.jpg", jpeg(picture)


FORMATS: dict[str, Format] = {
    "rle": Format(pictures=_nothing, listing=Lines, folders=()),
    "coco": Format(pictures=_panoptic_png, listing=Coco, folders=("panoptic",)),
    "png": Format(pictures=_maps, listing=Classes, folders=("semantic", "segments")),
    "overlay": Format(pictures=_overlay, listing=None, folders=("overlay",)),
}


def _list(file: IO[str], values: Iterator[Mapping[str, Any]]) -> None:
    file.write("[")
    for number, value in enumerate(values):
        file.write(",\n" if number else "\n")
        json.dump(value, file, allow_nan=False)
    file.write("\n]")


def _identity(row: Mapping[str, Any], numbers: bool) -> int | str:
    return int(row["stem"]) if numbers else row["stem"]


def _results(row: Mapping[str, Any], numbers: bool) -> Iterator[dict[str, Any]]:
    for segment in row["segments"]:
        yield {
            "image_id": _identity(row, numbers),
            "file_name": row["image"],
            "category_id": segment["category"],
            "score": 1.0 if segment["score"] is None else segment["score"],  # a result of COCO's must have one
            "bbox": segment["bbox"],
            "segmentation": segment["rle"],
        }


def _image(row: Mapping[str, Any], numbers: bool) -> dict[str, Any]:
    size = {"height": row["height"], "width": row["width"]}
    return {"id": _identity(row, numbers), "file_name": row["image"], **size}


def _annotation(row: Mapping[str, Any], numbers: bool) -> dict[str, Any]:
    return {
        "image_id": _identity(row, numbers),
        "file_name": f"{row['stem']}.png",
        "segments_info": [
            {
                "id": segment["id"],
                "category_id": segment["category"],
                "score": segment["score"],
                "area": segment["area"],
                "bbox": segment["bbox"],
                "iscrowd": 0,
            }
            for segment in row["segments"]
        ],
    }
