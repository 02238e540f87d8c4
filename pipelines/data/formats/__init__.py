"""Published formats: one module each, one table."""

from functools import partial
from typing import Any

from pipelines.data.formats import coco_panoptic, folder, shapes
from pipelines.data.formats.source import FormatSpec, Scan, Source
from pipelines.data.schema import Record


def _scan_shapes(source: Source) -> Scan:
    splits = {split: int(images) for split, images in source.splits.items()}
    return Scan(
        classes=shapes.classes(),
        items=shapes.plan(splits=splits),
        read=partial(_draw, seed=source.seed, **source.shapes),
        name=lambda item: f"{item[0]}/{item[1]}",
    )


def _draw(item: tuple[str, int], **how: Any) -> Record:
    return shapes.draw(*item, **how)


FORMATS: dict[str, FormatSpec] = {
    "shapes": FormatSpec(scan=_scan_shapes, isolated=False, holds="nothing"),
    "folder": FormatSpec(scan=folder.scan, isolated=True, holds="classes.yaml, images/ and masks/"),
    "coco-panoptic": FormatSpec(scan=coco_panoptic.scan, isolated=True, holds="annotations/panoptic_*.json"),
}
