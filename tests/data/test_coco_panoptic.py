"""COCO's panoptic format: a tiny dataset in its published layout and, where it is at hand, a sample of the real one."""

import copy
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from pipelines.data import rle
from pipelines.data.schema import IGNORE, Record
from tests.data.formats.taking import accounted, scan, take

SIZE = (6, 8)
# Ids of categories neither start at 0 nor are they without gaps; the order is the list's.
CATEGORIES = [
    {"id": 7, "name": "cat", "isthing": 1, "color": [220, 20, 60], "supercategory": "animal"},
    {"id": 200, "name": "rug", "isthing": 0, "color": [1, 2, 3], "supercategory": "floor"},
    {"id": 3, "name": "dog", "isthing": 1, "color": [4, 5, 6], "supercategory": "animal"},
]
SEGMENTS = [
    {"id": 70_000, "category_id": 3, "iscrowd": 0, "area": 8, "bbox": [0, 1, 4, 2]},
    {"id": 300, "category_id": 7, "iscrowd": 1, "area": 12, "bbox": [4, 0, 4, 3]},
    {"id": 5, "category_id": 200, "iscrowd": 0, "area": 16, "bbox": [0, 4, 8, 2]},
    {"id": 71_000, "category_id": 3, "iscrowd": 0, "area": 1, "bbox": [1, 3, 1, 1]},
]


def ids() -> np.ndarray:
    painted = np.zeros(SIZE, np.uint32)
    painted[1:3, :4], painted[:3, 4:], painted[4:], painted[3, 1] = 70_000, 300, 5, 71_000
    return painted


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_ids(path: Path, painted: np.ndarray) -> None:
    save(path, np.stack([painted & 255, painted >> 8 & 255, painted >> 16], -1).astype(np.uint8))


def published(prefix: str) -> dict[str, Any]:
    names = [f"{prefix}{i:04}" for i in (1, 2)]
    return {
        "info": {"year": 2018},
        "images": [{"id": i, "file_name": f"{n}.png", "height": 6, "width": 8} for i, n in enumerate(names)],
        "annotations": [
            {"image_id": i, "file_name": f"{n}.png", "segments_info": copy.deepcopy(SEGMENTS)}
            for i, n in enumerate(names)
        ],
        "categories": copy.deepcopy(CATEGORIES),
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("train2017", "val2017"):
        content = published(name[0])
        for k, image in enumerate(content["images"]):
            save(tmp_path / name / image["file_name"], np.full((*SIZE, 3), 50 + k, np.uint8))
            save_ids(tmp_path / f"annotations/panoptic_{name}" / image["file_name"], ids())
        (tmp_path / f"annotations/panoptic_{name}.json").write_text(json.dumps(content))
    return tmp_path


def read(root: Path) -> list[Record]:
    records, faults = take(root, "coco-panoptic")
    assert faults == []
    return records


def test_classes_are_numbered_as_they_are_listed(root):
    classes = scan(root, "coco-panoptic").classes
    assert [(c.name, c.isthing) for c in classes] == [("cat", True), ("rug", False), ("dog", True)]
    assert classes[0].color == (220, 20, 60)


def test_things_crowds_stuff_and_unlabelled_pixels(root):
    records = read(root)
    splits = [("train2017/t0001", "train"), ("train2017/t0002", "train"), ("val2017/v0001", "val")]
    assert [(r.id, r.split) for r in records] == [*splits, ("val2017/v0002", "val")]
    expected = np.full(SIZE, IGNORE, np.uint8)
    expected[1:3, :4], expected[:3, 4:], expected[4:], expected[3, 1] = 2, 0, 1, 2
    for record in records:
        np.testing.assert_array_equal(record.semantic, expected)
        assert record.image == (root / f"{record.id}.png").read_bytes()
        assert [(s.category, s.iscrowd, s.area) for s in record.segments] == [
            (2, False, 8),
            (0, True, 12),
            (2, False, 1),
        ]
        for segment, info in zip(record.segments, (SEGMENTS[0], SEGMENTS[1], SEGMENTS[3]), strict=True):
            np.testing.assert_array_equal(rle.decode(segment.counts, *SIZE), ids() == info["id"])
            assert list(segment.bbox) == info["bbox"]


@pytest.mark.parametrize("images", ["images/val2017", "images"])
def test_other_places_for_the_files(root, images):
    shutil.rmtree(root / "train2017")
    (root / "annotations/panoptic_train2017.json").unlink()
    (root / images).parent.mkdir(exist_ok=True)
    (root / "val2017").rename(root / images)
    (root / "annotations/panoptic_val2017").rename(root / "panoptic_val2017")
    assert [r.id for r in read(root)] == [f"{images}/v0001", f"{images}/v0002"]


def test_a_name_without_a_split_leaves_it_to_the_fractions(root):
    for old, new in (
        ("annotations/panoptic_val2017.json", "annotations/panoptic_trainval.json"),
        ("annotations/panoptic_val2017", "annotations/panoptic_trainval"),
        ("val2017", "trainval"),
    ):
        (root / old).rename(root / new)
    found = {item.id: item.split for item in scan(root, "coco-panoptic").items}
    assert {split for key, split in found.items() if key.startswith("trainval/")} == {None}
    assert {split for key, split in found.items() if key.startswith("train2017/")} == {"train"}


def test_the_classes_of_an_image_without_reading_it(root):
    found = scan(root, "coco-panoptic")
    assert found.labels(found.items[0]) == {0, 1, 2}


def test_an_item_names_every_file_that_it_is_read_from(root):
    """A change to any of them must have it read again; what the json says of it is in the item."""
    item = scan(root, "coco-panoptic").items[0]
    assert item.files == ("train2017/t0001.png", "annotations/panoptic_train2017/t0001.png")
    assert item.segments == ((70_000, 2, False), (300, 0, True), (5, 1, False), (71_000, 2, False))


Change = Callable[[dict[str, Any]], object]


def edit(change: Change) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        path = root / "annotations/panoptic_val2017.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def name_image(name: str) -> Callable[[Path], object]:
    return edit(lambda c: c["images"][0].update(file_name=name))


def many_classes(root: Path) -> None:
    many = [{"id": i, "name": str(i), "isthing": 0} for i in range(256)]
    for path in (root / "annotations").glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": many}))


def link_out(root: Path) -> None:
    save(root.parent / "outside.png", np.zeros((*SIZE, 3), np.uint8))
    (root / "val2017/v0001.png").unlink()
    (root / "val2017/v0001.png").symlink_to(root.parent / "outside.png")


def same_stem(root: Path) -> None:
    shutil.copy(root / "val2017/v0002.png", root / "val2017/v0001.jpg")
    edit(lambda c: c["images"][1].update(file_name="v0001.jpg"))(root)


def painted(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    return lambda root: save_ids(root / "annotations/panoptic_val2017/v0001.png", change(ids()))


MASK = "annotations/panoptic_val2017/v0001.png"
JSON = "annotations/panoptic_val2017.json"
V1, V2 = "val2017/v0001", "val2017/v0002"
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str, str]] = {  # kind, file, reason, image
    "climbs": (
        name_image("../../etc/hostname"),
        "outside-root",
        "val2017/../../etc/hostname",
        "outside dataset root",
        "val2017/../../etc/hostname",
    ),
    "absolute": (name_image("/etc/hostname"), "outside-root", "/etc/hostname", "outside dataset root", "/etc/hostname"),
    "null": (name_image("a\0.png"), "missing-file", "val2017/a\0.png", "missing", "val2017/a\0"),
    "link": (link_out, "outside-root", "val2017/v0001.png", "outside dataset root", V1),
    "mask climbs": (
        edit(lambda c: c["annotations"][0].update(file_name="../../../x.png")),
        "outside-root",
        "annotations/panoptic_val2017/../../../x.png",
        "outside dataset root",
        V1,
    ),
    "no image": (lambda r: (r / "val2017/v0001.png").unlink(), "missing-file", "val2017/v0001.png", "missing", V1),
    "no mask": (lambda r: (r / MASK).unlink(), "missing-file", MASK, "missing", V1),
    "no annotation": (
        edit(lambda c: c["annotations"].pop()),
        "no-mask",
        "val2017/v0002.png",
        f"image v0002.png has no annotation in {JSON}",
        V2,
    ),
    "unknown image": (
        edit(lambda c: c["images"].pop()),
        "unknown-image",
        JSON,
        "annotation v0002.png names image 1, which is not in images",
        "v0002.png",
    ),
    "category": (
        edit(lambda c: c["categories"].pop()),
        "class-table",
        JSON,
        "has other categories than annotations/panoptic_train2017.json",
        "",
    ),
    "unknown category": (
        edit(lambda c: c["annotations"][1]["segments_info"][0].update(category_id=17)),
        "unknown-category",
        MASK.replace("1.", "2."),
        r"category ids \[17\] are not in categories",
        V2,
    ),
    "segment twice": (
        edit(lambda c: c["annotations"][1]["segments_info"].append(SEGMENTS[0])),
        "duplicate-id",
        MASK.replace("1.", "2."),
        r"segment ids \[70000\] are there twice",
        V2,
    ),
    "image twice": (
        edit(lambda c: c["images"].append(c["images"][0])),
        "duplicate-id",
        "val2017/v0001.png",
        f"image id 0 is there twice in {JSON}",
        V1,
    ),
    "annotation twice": (
        edit(lambda c: c["annotations"].append(c["annotations"][0])),
        "duplicate-id",
        "val2017/v0001.png",
        f"annotation image_id 0 is there twice in {JSON}",
        V1,
    ),
    "same stem": (
        same_stem,
        "name-clash",
        JSON,
        "val2017/v0001.jpg is there twice, also as val2017/v0001.png",
        V1,
    ),
    "not painted": (
        painted(lambda i: np.where(i == 300, 5, i)),
        "instance-label",
        MASK,
        r"ids \[300\] are in segments_info, and not painted",
        V1,
    ),
    "not listed": (
        painted(lambda i: i + (i == 300)),
        "instance-label",
        MASK,
        r"ids \[301\] are painted, and not in segments_info",
        V1,
    ),
    "size": (painted(np.transpose), "size-mismatch", "val2017/v0001.png", "mask 6x8, image 8x6", V1),
    "grey mask": (
        lambda r: save(r / MASK, ids().astype(np.uint8)),
        "colour-mask",
        MASK,
        "a panoptic PNG must be 8-bit RGB",
        V1,
    ),
    "broken": (
        lambda r: (r / MASK).write_bytes((r / MASK).read_bytes()[:-20]),
        "truncated",
        MASK,
        "truncated PNG",
        V1,
    ),
    "no folder": (
        lambda r: shutil.rmtree(r / "val2017"),
        "layout",
        JSON,
        "there is none of the folders val2017, images/val2017, images in ",
        "",
    ),
    "no json": (
        lambda r: shutil.rmtree(r / "annotations"),
        "layout",
        "annotations",
        r"holds no panoptic\*\.json: set dataset\.root",
        "",
    ),
    "classes": (many_classes, "class-table", JSON, "256 classes, allowed are 1 to 255", ""),
    "damaged json": (lambda r: (r / JSON).write_text('{"images": ['), "unreadable-json", JSON, "Invalid JSON", ""),
    "deep json": (lambda r: (r / JSON).write_text("[" * 200_000), "unreadable-json", JSON, "recursion limit", ""),
    "other json": (lambda r: (r / JSON).write_text("[]"), "unreadable-json", JSON, "not as expected", ""),
    "number": (
        edit(lambda c: c["annotations"][0]["segments_info"][0].update(id=float("nan"))),
        "unreadable-json",
        JSON,
        r"segments_info\.0\.id",
        "",
    ),
    "negative": (
        edit(lambda c: c["annotations"][1]["segments_info"][2].update(id=-1)),
        "unreadable-json",
        JSON,
        r"annotations\.1\.segments_info\.2\.id",
        "",
    ),
    "field": (
        edit(lambda c: c["images"][1].pop("file_name")),
        "unreadable-json",
        JSON,
        r"images\.1\.file_name: Field required",
        "",
    ),
}


@pytest.mark.parametrize(("damage", "kind", "file", "reason", "image"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named_with_their_file(root, damage, kind, file, reason, image):
    damage(root)
    records, faults = take(root, "coco-panoptic")
    hits = [f for f in faults if (f.kind, f.file, f.item) == (kind, file, image) and re.search(reason, f.reason)]
    assert hits, faults
    if any(f.outcome == "stop" for f in faults):
        return
    assert len(set(hits)) == 1
    named = {key for name in ("train2017", "val2017") for key in images_named(root, name)}
    assert named <= accounted(records, faults)


def images_named(root: Path, name: str) -> set[str]:
    content = json.loads((root / f"annotations/panoptic_{name}.json").read_text())
    return {str(Path(name, image["file_name"]).with_suffix("")) for image in content["images"]}


def test_all_faults_come_at_once(root):
    for name in ("size", "unknown category"):
        FAULTS[name][0](root)
    (root / "train2017/t0002.png").write_bytes(b"")
    records, faults = take(root, "coco-panoptic")
    assert {(f.kind, f.item) for f in faults} == {
        ("size-mismatch", V1),
        ("unknown-category", V2),
        ("empty-file", "train2017/t0002"),
    }
    assert [r.id for r in records] == ["train2017/t0001"]


def test_the_real_format(tmp_path):
    """The masks of two COCO images, held against the areas and boxes that were published with them."""
    sample = Path(os.environ.get("MASKLINE_DATA", "")) / "coco-panoptic-sample"
    if not os.environ.get("MASKLINE_DATA") or not sample.is_dir():
        pytest.skip("MASKLINE_DATA names no folder with coco-panoptic-sample in it")
    shutil.copytree(sample / "panoptic_examples", tmp_path / "annotations/panoptic_examples")
    shutil.copy(sample / "panoptic_examples.json", tmp_path / "annotations")
    shutil.copytree(sample / "input_images", tmp_path / "examples")
    content = json.loads((sample / "panoptic_examples.json").read_text())
    found = scan(tmp_path, "coco-panoptic")
    assert list(found.faults) == []
    assert [c.name for c in found.classes] == [c["name"] for c in content["categories"]]
    index = {category["id"]: k for k, category in enumerate(content["categories"])}
    annotations = {Path(a["file_name"]).stem: a["segments_info"] for a in content["annotations"]}
    for record in map(found.read, found.items):
        infos = annotations[Path(record.id).stem]
        things = [i for i in infos if found.classes[index[i["category_id"]]].isthing]
        want = [(index[i["category_id"]], i["area"], tuple(i["bbox"]), bool(i["iscrowd"])) for i in things]
        assert [(s.category, s.area, s.bbox, s.iscrowd) for s in record.segments] == want
        for k, category in enumerate(content["categories"]):
            area = sum(i["area"] for i in infos if i["category_id"] == category["id"])
            assert (record.semantic == k).sum() == area
        assert record.format == "jpeg"
        assert cv2.imdecode(np.frombuffer(record.image, np.uint8), 1).shape[:2] == record.semantic.shape


def test_an_image_that_two_files_name_is_left_out(root):
    (root / "val2017").rename(root / "images")
    shutil.copy(root / JSON, root / "annotations/panoptic_more.json")
    shutil.copytree(root / "annotations/panoptic_val2017", root / "annotations/panoptic_more")
    records, faults = take(root, "coco-panoptic")
    assert [r.id for r in records] == ["train2017/t0001", "train2017/t0002"]
    assert {(f.kind, f.file, f.item) for f in faults} == {("name-clash", JSON, f"images/v000{k}") for k in (1, 2)}


def test_images_that_nothing_names_are_told(root):
    (root / "annotations/panoptic_train2017.json").unlink()
    (root / "test2017").mkdir()
    shutil.copy(root / "val2017/v0001.png", root / "test2017/x.png")
    records, faults = take(root, "coco-panoptic")
    assert [r.id for r in records] == [V1, V2]
    assert {(f.kind, f.item) for f in faults} == {
        ("no-mask", "train2017/t0001"),
        ("no-mask", "train2017/t0002"),
        ("unlabelled", "test2017/x"),
    }
