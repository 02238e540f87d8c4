"""COCO-Stuff: a tiny dataset in its published layout, with COCO's instances and without."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.data import rle
from pipelines.data.schema import IGNORE
from tests.data.formats.taking import accounted, photo, save, scan, take

FORMAT = "coco-stuff"
SIZE = (6, 8)
JSON = "annotations/instances_val2017.json"
MAP = np.full(SIZE, 255, np.uint8)
MAP[:3], MAP[3:5], MAP[1:4, 2:5], MAP[0, 0] = 181, 123, 17, 0  # wood, grass, a dog, and a person
# Of each value the class: ids that COCO does not use leave gaps.
PLACES = {0: 0, 17: 16, 123: 112, 181: 170, 255: IGNORE}
ALL = {"size": [6, 8], "counts": [0, 48]}
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}]


def published(*names: str) -> dict[str, Any]:
    box = [2, 1, 5, 1, 5, 4, 2, 4]
    return {
        "images": [{"id": k, "file_name": f"{n}.png", "height": 6, "width": 8} for k, n in enumerate(names)],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 18, "iscrowd": 0, "segmentation": [box]},
            {
                "id": 2,
                "image_id": 0,
                "category_id": 1,
                "iscrowd": 1,
                "segmentation": {"size": [6, 8], "counts": [0, 48]},
            },
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, images in {"train2017": ["t1"], "val2017": ["v1", "v2"]}.items():
        for k, image in enumerate(images):
            save(tmp_path / f"{name}/{image}.png", photo(k, *SIZE))
            save(tmp_path / f"stuffthingmaps/{name}/{image}.png", MAP)
        write(tmp_path / f"annotations/instances_{name}.json", published(*images))
    return tmp_path


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))


def semantic() -> np.ndarray:
    found = np.zeros(SIZE, np.uint8)
    for value, place in PLACES.items():
        found[value == MAP] = place
    return found


def test_maps_and_instances(root):
    records, faults = take(root, FORMAT)
    assert faults == []
    classes = scan(root, FORMAT).classes
    assert (len(classes), sum(c.isthing for c in classes)) == (171, 80)
    assert [classes[k].name for k in (0, 16, 112, 170)] == ["person", "dog", "grass", "wood"]
    assert [(r.id, r.split) for r in records] == [
        ("train2017/t1", "train"),
        ("val2017/v1", "val"),
        ("val2017/v2", "val"),
    ]
    for record in records:
        np.testing.assert_array_equal(record.semantic, semantic())
        assert record.mended == ()
    box = np.zeros(SIZE, bool)
    box[1:4, 2:5] = True
    for record in records[:2]:
        assert [(s.category, s.iscrowd, s.area) for s in record.segments] == [(16, False, 9), (0, True, 48)]
        np.testing.assert_array_equal(rle.decode(record.segments[0].counts, *SIZE), box)
    assert records[2].segments == ()


def test_without_instances_all_classes_are_stuff(root):
    shutil.rmtree(root / "annotations")
    records, faults = take(root, FORMAT)
    assert faults == []
    assert not any(c.isthing for c in scan(root, FORMAT).classes)
    for record in records:
        np.testing.assert_array_equal(record.semantic, semantic())
        assert record.segments == ()


def test_labels_are_what_the_map_shows(root):
    found = scan(root, FORMAT)
    assert [found.labels(item) for item in found.items] == [{0, 16, 112, 170}] * 3


def test_images_in_a_folder_of_images(root):
    for name in ("train2017", "val2017"):
        (root / "images").mkdir(exist_ok=True)
        (root / name).rename(root / "images" / name)
    records, faults = take(root, FORMAT)
    assert faults == []
    assert [r.id for r in records] == ["images/train2017/t1", "images/val2017/v1", "images/val2017/v2"]


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        content = json.loads((root / JSON).read_text())
        change(content)
        write(root / JSON, content)

    return damage


V1, V1_MAP = "val2017/v1.png", "stuffthingmaps/val2017/v1.png"
# What is done, the kind and the file of what is said, and its text.
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "no map": (lambda r: (r / V1_MAP).unlink(), "no-mask", V1, "has no stuffthingmaps/val2017/v1.png"),
    "no image": (lambda r: (r / V1).unlink(), "no-image", V1_MAP, "has no image val2017/v1.*"),
    "value": (
        lambda r: save(r / V1_MAP, np.where(MAP == 17, 11, MAP).astype(np.uint8)), "label-value", V1_MAP, r"ids \{11\}",
    ),
    "size": (lambda r: save(r / V1_MAP, MAP.T), "size-mismatch", V1_MAP, "mask 6x8, annotations/instances_.* says 8x6"),
    "image size": (lambda r: save(r / V1, photo(0, 6, 9)), "size-mismatch", V1, "mask 8x6, image 9x6"),
    "not listed": (
        edit(lambda c: (c["images"].pop(0), c["annotations"].clear())), "no-mask", V1, "is not in annotations/",
    ),
    "annotation": (
        edit(lambda c: c["annotations"][0].update(segmentation=[[1, 1, 1e9, 4, 5, 5]])),
        "bad-polygon", JSON, "annotation 1: .* over limit",
    ),
    "category": (edit(lambda c: c["annotations"][0].update(category_id=2)), "unknown-category", JSON, "category ids 2"),
    "broken": (lambda r: (r / V1).write_bytes(b"\x89PNG\r\n\x1a\n"), "corrupt", V1, "corrupt PNG"),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "file", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_takes_its_image_and_no_other(root, damage, kind, file, message):
    damage(root)
    records, faults = take(root, FORMAT)
    assert [(f.kind, f.file, f.item, f.outcome) for f in faults] == [(kind, file, "val2017/v1", "quarantined")]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(faults[0].reason)
    assert [r.id for r in records] == ["train2017/t1", "val2017/v2"]


def test_images_that_are_nowhere_and_images_without_labels(root):
    edit(lambda c: c["images"].append(c["images"][1] | {"id": 9, "file_name": "v9.png"}))(root)
    save(root / "test2017/x.png", photo(0, *SIZE))
    records, faults = take(root, FORMAT)
    assert len(records) == 3
    assert [(f.kind, f.item) for f in faults] == [("missing-file", "val2017/v9"), ("unlabelled", "test2017/x")]


def test_annotations_of_an_image_that_is_not_there(root):
    edit(lambda c: c["annotations"][0].update(image_id=77))(root)
    records, faults = take(root, FORMAT)
    assert [(f.kind, f.reason) for f in faults] == [("unknown-image", "image 77 is not in images")]
    assert accounted(records, faults) >= {"train2017/t1", "val2017/v1", "val2017/v2"}


STOPS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no maps": (lambda r: shutil.rmtree(r / "stuffthingmaps"), "layout", "holds no folder of maps"),
    "no images": (lambda r: shutil.rmtree(r / "val2017"), "layout", "none of the folders val2017"),
    "one json": (lambda r: (r / JSON).unlink(), "layout", "has no annotations/instances_val2017.json, and another"),
    "categories": (
        edit(lambda c: c["categories"][0].update(name="cat")), "class-table", "category 18 'cat' is no thing class",
    ),
    "stuff": (
        edit(lambda c: c["categories"].append({"id": 124, "name": "grass"})), "class-table", "'grass' is no thing",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "message"), STOPS.values(), ids=STOPS)
def test_what_stops_the_line(root, damage, kind, message):
    damage(root)
    _, faults = take(root, FORMAT)
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("; ".join(f.line for f in faults if f.kind == kind and f.outcome == "stop"))


@pytest.mark.parametrize("with_objects", [True, False])
def test_one_folder_of_images_for_all_names(root, with_objects):
    """Each name has the images of its maps; a picture with maps of two names is two items."""
    (root / "images").mkdir()
    for name in ("train2017/t1", "val2017/v1", "val2017/v2"):
        (root / f"{name}.png").rename(root / f"images/{Path(name).name}.png")
    save(root / "images/left.png", photo(0, *SIZE))
    save(root / "stuffthingmaps/train2017/v2.png", MAP)
    write(root / "annotations/instances_train2017.json", published("t1", "v2"))
    if not with_objects:
        shutil.rmtree(root / "annotations")
    records, faults = take(root, FORMAT)
    ids = ["images/train2017/t1", "images/train2017/v2", "images/val2017/v1", "images/val2017/v2"]
    assert [r.id for r in records] == ids
    assert [(f.kind, f.item) for f in faults] == [("no-mask", "images/left")]


def test_a_folder_of_images_without_maps_is_told(root):
    shutil.rmtree(root / "stuffthingmaps/train2017")
    records, faults = take(root, FORMAT)
    assert [r.id for r in records] == ["val2017/v1", "val2017/v2"]
    assert [(f.kind, f.item) for f in faults] == [("no-mask", "train2017/t1")]


def test_which_of_two_images_a_map_is_of_nobody_knows(root):
    shutil.copy(root / "val2017/v1.png", root / "val2017/v1.jpg")
    records, faults = take(root, FORMAT)
    assert [r.id for r in records] == ["train2017/t1", "val2017/v2"]
    assert {(f.kind, f.item) for f in faults} == {("name-clash", "val2017/v1")}
