"""Small sound sources, each in its published layout."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults.annotation_cases import COCO_JSON, PAINTED, PANOPTIC_JSON, SQUARE, Published, painted
from tests.faults.matter import HEIGHT, WIDTH, encoded, photo

CITY = "aachen_000000_00000{}"
CATEGORIES = [{"id": 7, "name": "cat", "isthing": 1}, {"id": 3, "name": "dog", "isthing": 1}]


def publish(root: Path, format: str, keys: list[str]) -> None:
    """One cat in each image."""
    images, annotations = [], []
    (root / "train").mkdir(parents=True)
    for k, key in enumerate(keys):
        (root / f"train/{key}.png").write_bytes(encoded(photo(k)))
        images.append({"id": k, "file_name": f"{key}.png", "height": HEIGHT, "width": WIDTH})
        if format == "coco":
            annotations.append({"id": 1000 + k, "image_id": k, "category_id": 7, "segmentation": [SQUARE]})
        else:
            info = {"id": 70_000, "category_id": 7, "iscrowd": 0}
            annotations.append({"image_id": k, "file_name": f"{key}.png", "segments_info": [info]})
    raw = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    source = Published(root, COCO_JSON if format == "coco" else PANOPTIC_JSON, raw)
    source.write()
    if format == "coco-panoptic":
        (root / "annotations/panoptic_train").mkdir()
        for key in keys:
            painted(PAINTED)(source, key)


def folder(root: Path, format: str, keys: list[str]) -> None:
    root.mkdir(parents=True)
    (root / "classes.yaml").write_text("- {name: a}\n- {name: b}\n")
    for kind in ("images", "masks"):
        (root / kind).mkdir()
        for k, key in enumerate(keys):
            pixels = photo(k)
            (root / f"{kind}/{key}.png").write_bytes(encoded(pixels if kind == "images" else pixels[..., 0] & 1))


def voc(root: Path, format: str, keys: list[str]) -> None:
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{key}\n" for key in keys))
    for kind, suffix, image_format in (("JPEGImages", "jpg", "JPEG"), ("SegmentationClass", "png", "PNG")):
        (root / kind).mkdir()
        for k, key in enumerate(keys):
            pixels = photo(k) if suffix == "jpg" else photo(k)[..., 0] % 21
            (root / f"{kind}/{key}.{suffix}").write_bytes(encoded(pixels, image_format))


def cityscapes(root: Path, format: str, keys: list[str]) -> None:
    """Roads (7) and cars (26)."""
    for k, key in enumerate(CITY.format(i) for i in range(len(keys))):
        labels = np.where(photo(k)[..., 0] & 1, 7, 26).astype(np.uint8)
        for name, pixels in {f"leftImg8bit/train/aachen/{key}_leftImg8bit.png": photo(k),
                             f"gtFine/train/aachen/{key}_gtFine_labelIds.png": labels}.items():  # fmt: skip
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(encoded(pixels))


def labelme(root: Path, format: str, keys: list[str]) -> None:
    root.mkdir(parents=True)
    corners = [list(point) for point in zip(SQUARE[::2], SQUARE[1::2], strict=True)]
    for k, key in enumerate(keys):
        (root / f"{key}.png").write_bytes(encoded(photo(k)))
        shape = {"label": "cat", "points": corners, "shape_type": "polygon"}
        size = {"imageHeight": HEIGHT, "imageWidth": WIDTH, "imageData": None}
        (root / f"{key}.json").write_text(json.dumps({"shapes": [shape], "imagePath": f"{key}.png", **size}))


PUBLISH: dict[str, Callable[[Path, str, list[str]], None]] = {
    "folder": folder,
    "coco": publish,
    "coco-panoptic": publish,
    "voc": voc,
    "cityscapes": cityscapes,
    "labelme": labelme,
}
