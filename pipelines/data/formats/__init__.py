"""Published formats: one module each, one table."""

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from pipelines.data.formats import (
    ade20k,
    ade20k_full,
    camvid,
    cityscapes,
    coco,
    coco_panoptic,
    coco_stuff,
    folder,
    instance_folder,
    kitti,
    labelme,
    mapillary_vistas,
    pascal_context,
    shapes,
    voc,
)
from pipelines.data.formats.source import FormatSpec, Item, Scan, Source
from pipelines.data.schema import Record, Split


def _scan_shapes(source: Source) -> Scan:
    splits = {split: int(images) for split, images in source.splits.items()}
    items = [
        Drawn(id=f"{split}/{index:06d}", split=cast(Split, split), files=(), index=index)
        for split, index in shapes.plan(splits=splits)
    ]
    read = partial(_draw, seed=source.seed, **source.shapes)
    return Scan(classes=shapes.classes(), items=items, read=read)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn(Item):
    index: int


def _draw(item: Drawn, **how: Any) -> Record:
    return shapes.draw(str(item.split), item.index, **how)


FORMATS: dict[str, FormatSpec] = {
    "shapes": FormatSpec(scan=_scan_shapes, isolated=False, holds="nothing"),
    "folder": FormatSpec(scan=folder.scan, isolated=True, holds="classes.yaml, images/ and masks/"),
    "instance-folder": FormatSpec(scan=instance_folder.scan, isolated=True, holds="<id>/images/ and <id>/masks/"),
    "labelme": FormatSpec(scan=labelme.scan, isolated=True, holds="a JSON file of labelme's for each image"),
    "voc": FormatSpec(
        scan=voc.scan, isolated=True, holds="ImageSets/Segmentation/, JPEGImages/ and SegmentationClass/"
    ),
    "pascal-context": FormatSpec(
        scan=pascal_context.scan,
        isolated=True,
        holds="JPEGImages/ and 59_context_labels/, SegmentationClassContext/, trainval/*.mat or 33_context_labels/",
    ),
    "coco": FormatSpec(scan=coco.scan, isolated=True, holds="annotations/instances_*.json"),
    "coco-stuff": FormatSpec(scan=coco_stuff.scan, isolated=True, holds="stuffthingmaps/, and the images"),
    "coco-panoptic": FormatSpec(scan=coco_panoptic.scan, isolated=True, holds="annotations/panoptic_*.json"),
    "cityscapes": FormatSpec(scan=cityscapes.scan, isolated=True, holds="leftImg8bit/, and gtFine/ or gtCoarse/"),
    "kitti": FormatSpec(scan=kitti.scan, isolated=True, holds="training/image_2/ and training/semantic/"),
    "mapillary-vistas": FormatSpec(
        scan=mapillary_vistas.scan, isolated=True, holds="config_v2.0.json, training/ and validation/"
    ),
    "camvid": FormatSpec(scan=camvid.scan, isolated=True, holds="trainannot/ and train.txt, or *_L.png"),
    "ade20k": FormatSpec(
        scan=ade20k.scan, isolated=True, holds="images/ and annotations/, each with training/ and validation/"
    ),
    "ade20k-full": FormatSpec(
        scan=ade20k_full.scan, isolated=True, holds="images/ with <name>.jpg and <name>_seg.png side by side"
    ),
}
