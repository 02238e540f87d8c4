"""The ways to spoil an annotation of COCO's formats. A source is changed in memory and written once."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.faults import matter
from tests.faults.line import Case
from tests.faults.matter import HEIGHT, WIDTH, encoded, photo

# What json.dumps does not write.
VERBATIM = {
    "@deep": "[" * 200_000 + "]" * 200_000,
    "@digits": "9" * 5_000,
    "@infinite": "1e999",
}
SQUARE = [2, 2, 7, 2, 7, 6, 2, 6]
PAINTED = np.zeros((HEIGHT, WIDTH), np.uint32)
PAINTED[2:6, 2:7] = 70_000


@dataclass
class Published:
    """A json of one of COCO's formats, its images in train/."""

    root: Path
    name: str
    raw: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path, name: str) -> "Published":
        return cls(root, name, json.loads((root / name).read_text()))

    def image(self, key: str) -> dict[str, Any]:
        return next(i for i in self.raw["images"] if i["file_name"] == f"{key}.png")

    def annotation(self, key: str) -> dict[str, Any]:
        identity = self.image(key)["id"]
        return next(a for a in self.raw["annotations"] if a["image_id"] == identity)

    def write(self) -> None:
        text = json.dumps(self.raw)
        for mark, meant in VERBATIM.items():
            text = text.replace(f'"{mark}"', meant)
        path = self.root / self.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


Spoil = Callable[[Published, str], None]


def annotation(**values: Any) -> Spoil:
    return lambda source, key: source.annotation(key).update(values)


def shape(segmentation: Any, **values: Any) -> Spoil:
    return annotation(segmentation=segmentation, **values)


def runs(counts: Any, size: Any = (HEIGHT, WIDTH)) -> Spoil:
    return shape({"size": list(size), "counts": counts})


def image(**values: Any) -> Spoil:
    return lambda source, key: source.image(key).update(values)


def file(data: bytes) -> Spoil:
    return lambda source, key: (source.root / f"train/{key}.png").write_bytes(data) and None


def no_annotation(source: Published, key: str) -> None:
    source.raw["annotations"].remove(source.annotation(key))


def unlisted(source: Published, key: str) -> None:
    no_annotation(source, key)
    source.raw["images"].remove(source.image(key))


def image_twice(source: Published, key: str) -> None:
    source.raw["images"].append(dict(source.image(key)))


def annotation_twice(source: Published, key: str) -> None:
    source.raw["annotations"].append(dict(source.annotation(key)))


def elsewhere(source: Published, key: str) -> None:
    source.raw["annotations"].append({**source.annotation(key), "id": 10_000, "image_id": 99_999})


def no_file(source: Published, key: str) -> None:
    (source.root / f"train/{key}.png").unlink()


def painted(ids: np.ndarray) -> Spoil:
    data = encoded(np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8))
    return mask(data)


def mask(data: bytes) -> Spoil:
    return lambda source, key: (source.root / f"annotations/panoptic_train/{key}.png").write_bytes(data) and None


def declared(*infos: dict[str, Any]) -> Spoil:
    return annotation(segments_info=[dict(info) for info in infos])


COCO_JSON = "annotations/instances_train.json"
PANOPTIC_JSON = "annotations/panoptic_train.json"
AREA = HEIGHT * WIDTH
COCO = [
    Case("d16-no-annotations", "no-annotations", "has no annotations: all of it is background", no_annotation),
    Case("d16-empty", "covers-nothing", "annotation .* covers no pixel, left out", shape([])),
    Case("d16-line", "covers-nothing", "covers no pixel, left out", shape([[1, 1, 5, 1, 9, 1]])),
    Case("d16-crowd", "", "", shape({"size": [HEIGHT, WIDTH], "counts": [9, 18, AREA - 27]}, iscrowd=1)),
    Case("d16-box", "", "", annotation(bbox=[1, 1, 0, 0], area=0)),
    Case("d17-image-twice", "duplicate-id", "image id .* is there twice", image_twice),
    Case("d17-annotation-twice", "duplicate-id", "annotation .*: the id is there twice", annotation_twice),
    Case(
        "d17-unknown-image",
        "unknown-image",
        "image 99999 is not in images, and has 1 annotations",
        elsewhere,
        at=f"{COCO_JSON} image 99999",
        beside=True,
    ),
    Case("d17-category", "unknown-category", "category ids 99 are not in categories", annotation(category_id=99)),
    Case("d17-category-text", "bad-annotation", "annotation .*category_id", annotation(category_id="7")),
    Case("d17-crowd-2", "bad-annotation", "annotation .*iscrowd", annotation(iscrowd=2)),
    Case("d17-no-shape", "bad-annotation", "annotation .*segmentation", annotation(segmentation=None)),
    Case("d17-nan", "bad-annotation", "annotation .*: NaN is no number", shape([[float("nan"), *SQUARE[1:]]])),
    Case("d17-infinity", "bad-annotation", "Infinity is no number", shape([[float("inf"), *SQUARE[1:]]])),
    Case("d17-deep", "bad-annotation", "annotation .*: is nested too deeply", shape("@deep")),
    Case("d17-digits", "bad-annotation", "annotation .*digits", shape([["@digits", *SQUARE[1:]]])),
    Case("d17-not-listed", "no-mask", r"no instances_\*\.json names it", unlisted),
    Case("d17-no-size", "no-mask", r"no instances_\*\.json names it", image(height=None)),
    Case("d18-short", "bad-rle", f"RLE sum 27 != h\\*w {AREA}", runs([9, 18])),
    Case("d18-long", "bad-rle", f"RLE sum of .* or more != h\\*w {AREA}", runs([9, 10_000])),
    Case("d18-negative", "bad-rle", "RLE has a run of length -18", runs([9, -18, AREA + 9])),
    Case("d18-fraction", "bad-rle", "RLE counts must be whole numbers", runs([9.5, AREA - 9.5])),
    Case("d18-overflow", "bad-rle", "RLE counts must be whole numbers", runs([1 << 63, 1 << 63])),
    Case("d18-text", "bad-rle", "RLE string", runs("\u00ff\u00ff")),
    Case("d18-text-cut", "bad-rle", "RLE string ends within a number", runs("o")),
    Case("d18-other-size", "bad-rle", r"RLE size \[200000, 200000\], expected", runs([AREA], (200_000, 200_000))),
    Case("d18-negative-size", "bad-rle", r"RLE size \[-9, -12\], expected", runs([AREA], (-HEIGHT, -WIDTH))),
    Case("d18-no-counts", "bad-rle", "RLE counts must be text or a list", runs(None)),
    Case("d18-image", "too-large", "pixels 200000x200000 over limit", image(height=200_000, width=200_000)),
    Case("d18-far", "bad-polygon", "coordinate 1000000000, over limit", shape([[1e9, *SQUARE[1:]]])),
    Case("d18-infinite", "bad-polygon", "coordinates that are not finite", shape([["@infinite", *SQUARE[1:]]])),
    Case("d18-2-points", "bad-polygon", "a polygon of 2 points, expected 3 or more", shape([[1, 1, 5, 5]])),
    Case("d18-odd", "bad-polygon", "an x and a y for each point", shape([SQUARE[:-1]])),
    Case("d18-words", "bad-polygon", "must be a list of numbers", shape([["a", "b", "c", "d", "e", "f"]])),
    Case("d18-part", "degenerate-part", "1 of 2 parts left out: no area", shape([SQUARE, [1, 1, 5, 5]])),
    Case("s12-clipped", "clipped", "reaches out of the image of 12x9, clipped", shape([[-5, 2, 7, 2, 7, 30]])),
    Case("s12-outside", "outside-image", "lies wholly outside", shape([[50, 50, 60, 50, 60, 60]])),
    Case("d11-declared", "size-mismatch", "mask 11x9, image 12x9", image(width=11)),
    Case("d01-in-coco", "truncated", "truncated PNG", file(encoded(photo(1))[:-30])),
    Case("d04-no-file", "missing-file", "missing", no_file),
]
PANOPTIC = [
    Case("d17-segment-twice", "duplicate-id", "segment ids", declared(*[{"id": 70_000, "category_id": 7}] * 2)),
    Case("d17-of-none", "unknown-category", "category ids", declared({"id": 70_000, "category_id": 99})),
    Case("d17-images-twice", "duplicate-id", "is there twice", image_twice),
    Case("d17-no-annotation", "no-mask", "has no annotation in", no_annotation),
    Case("d07-indexed", "colour-mask", "a panoptic PNG must be 8-bit RGB, got mode L", mask(encoded(photo(1)[..., 0]))),
    Case("d08-undeclared", "instance-label", "are painted, and not in segments_info", painted(PAINTED + 1)),
    Case("d08-unpainted", "instance-label", "are in segments_info, and not painted", painted(0 * PAINTED)),
    Case("d11-mask", "size-mismatch", "mask 11x9, image 12x9", painted(PAINTED[:, 1:])),
    Case("d02-panoptic", "corrupt", "corrupt PNG", mask(matter.flipped_pixels(encoded(photo(2)), 9))),
    Case(
        "d17-unknown",
        "unknown-image",
        "names image 99999, which is not in images",
        annotation(image_id=99_999),
        at="d17-unknown.png",
    ),
]
