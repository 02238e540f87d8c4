"""COCO's detection format: a tiny dataset in its published layout, whose pixels are given by hand."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as tools

from pipelines.data import rle
from pipelines.data.schema import Record
from tests.data.formats.taking import accounted, photo, save, scan, take

HEIGHT, WIDTH = 6, 8
JSON = "annotations/instances_val2017.json"
IMAGES = {"train2017/t1", "val2017/v1", "val2017/v2", "val2017/v3"}


def content(*images: str) -> dict[str, Any]:
    """Ids of categories neither start at 1 nor are they in order."""
    return {
        "info": {"year": 2017},
        "licenses": [],
        "images": [{"id": k, "file_name": f"{n}.png", "height": 6, "width": 8} for k, n in enumerate(images)],
        "annotations": [],
        "categories": [{"id": 7, "name": "cat", "supercategory": "animal"}, {"id": 3, "name": "dog"}],
    }


def square(x: int, y: int, side: int) -> list[int]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def painted(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    for x, y, width, height in boxes:
        mask[y : y + height, x : x + width] = True
    return mask


# Row 0..5, column 0..7: a cat of two squares, a crowd of dogs over most of it, a dog in a cat with a hole.
FRAME = painted((3, 0, 5, 5)) & ~painted((5, 2, 1, 1))
COMPRESSED = tools.encode(np.asfortranarray(FRAME.astype(np.uint8)))["counts"].decode()
ANNOTATIONS = [
    {"id": 1, "image_id": 0, "category_id": 7, "iscrowd": 0, "segmentation": [square(0, 0, 2), square(0, 3, 2)]},
    {
        "id": 2,
        "image_id": 0,
        "category_id": 3,
        "iscrowd": 1,
        "segmentation": {"size": [6, 8], "counts": rle.encode(painted((0, 0, 7, 6))).tolist()},
    },
    {
        "id": 3,
        "image_id": 0,
        "category_id": 7,
        "segmentation": {
            "size": [6, 8],
            "counts": tools.encode(np.asfortranarray(FRAME.astype(np.uint8)))["counts"].decode(),
        },
        "bbox": [0, 0, 0, 0],
        "area": -1,
    },
    {"id": 4, "image_id": 0, "category_id": 3, "iscrowd": 0, "segmentation": [square(4, 1, 2)]},
    {"id": 5, "image_id": 2, "category_id": 3, "iscrowd": 0, "segmentation": [square(6, 4, 2)]},
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    val, train = content("v1", "v2", "v3"), content("t1")
    val["annotations"] = ANNOTATIONS
    for name, published in {"val2017": val, "train2017": train}.items():
        for k, image in enumerate(published["images"]):
            save(tmp_path / name / image["file_name"], photo(k, HEIGHT, WIDTH))
        write(tmp_path / f"annotations/instances_{name}.json", published)
    return tmp_path


def write(path: Path, published: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(published))


def read(root: Path) -> dict[str, Record]:
    records, faults = take(root, "coco")
    assert [f for f in faults if f.outcome != "mended"] == []
    return {record.id: record for record in records}


def test_classes_are_background_and_the_categories_in_order(root):
    assert [(c.name, c.isthing) for c in scan(root, "coco").classes] == [
        ("background", False),
        ("cat", True),
        ("dog", True),
    ]


def test_polygons_runs_crowds_overlaps_and_holes(root):
    records = read(root)
    assert {(r.id, r.split) for r in records.values()} == {(i, i[: i.index("2")]) for i in IMAGES}
    record = records["val2017/v1"]
    masks = {
        (2, False): painted((4, 1, 2, 2)),
        (1, False): painted((0, 0, 2, 2), (0, 3, 2, 2)),
        (1, None): FRAME,
        (2, True): painted((0, 0, 7, 6)),
    }
    assert [(s.category, s.iscrowd) for s in record.segments] == [(2, False), (1, False), (1, False), (2, True)]
    for segment, mask in zip(record.segments, masks.values(), strict=True):
        np.testing.assert_array_equal(rle.decode(segment.counts, HEIGHT, WIDTH), mask)
        np.testing.assert_array_equal(segment.counts, rle.encode(mask))
        assert (segment.area, segment.bbox) == (mask.sum(), rle.bbox(mask))
    semantic = np.array(
        [
            [1, 1, 2, 1, 1, 1, 1, 1],
            [1, 1, 2, 1, 2, 2, 1, 1],
            [2, 2, 2, 1, 2, 2, 1, 1],
            [1, 1, 2, 1, 1, 1, 1, 1],
            [1, 1, 2, 1, 1, 1, 1, 1],
            [2, 2, 2, 2, 2, 2, 2, 0],
        ]
    )
    np.testing.assert_array_equal(record.semantic, semantic)
    assert record.image == (root / "val2017/v1.png").read_bytes()


def test_images_without_annotations_are_background(root):
    record = read(root)["val2017/v2"]
    assert not record.semantic.any()
    assert record.segments == ()
    assert [(f.kind, f.item) for f in record.mended] == [("no-annotations", "val2017/v2")]


def test_labels_are_the_annotations_classes(root):
    found = scan(root, "coco")
    assert {item.id: found.labels(item) for item in found.items} == {
        "train2017/t1": frozenset(),
        "val2017/v1": frozenset({1, 2}),
        "val2017/v2": frozenset(),
        "val2017/v3": frozenset({2}),
    }


@pytest.mark.parametrize("images", ["images/val2017", "images"])
def test_other_places_for_the_images(root, images):
    shutil.rmtree(root / "train2017")
    (root / "annotations/instances_train2017.json").unlink()
    (root / images).parent.mkdir(exist_ok=True)
    (root / "val2017").rename(root / images)
    assert set(read(root)) == {f"{images}/v{k}" for k in (1, 2, 3)}


def test_a_name_without_a_split_leaves_it_to_the_fractions(root):
    (root / JSON).rename(root / "annotations/instances_all.json")
    (root / "val2017").rename(root / "images")
    assert {i.split for i in scan(root, "coco").items if i.id.startswith("images/")} == {None}


def test_the_order_of_the_file_s_members_is_free(root):
    published = json.loads((root / JSON).read_text())
    before = read(root)["val2017/v1"]
    write(root / JSON, dict(reversed(published.items())))
    np.testing.assert_array_equal(read(root)["val2017/v1"].semantic, before.semantic)


def test_an_item_says_all_that_its_record_follows_from(root):
    """Whoever keeps rows compares items: another annotation, another class, another item."""
    items = {repr(i) for i in scan(root, "coco").items if i.id == "val2017/v3"}
    for change in (
        lambda c: c["annotations"][4].update(segmentation=[square(5, 4, 2)]),
        lambda c: c["annotations"][4].update(category_id=7),
        lambda c: c["annotations"][4].update(iscrowd=1),
    ):
        edit(change)(root)
        items |= {repr(i) for i in scan(root, "coco").items if i.id == "val2017/v3"}
    assert len(items) == 4
    edit(lambda c: c["annotations"][0].update(category_id=3))(root)
    assert len(items | {repr(i) for i in scan(root, "coco").items if i.id == "val2017/v3"}) == 4


def edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        published = json.loads((root / JSON).read_text())
        change(published)
        write(root / JSON, published)

    return damage


def segmentation(value: Any) -> Callable[[Path], object]:
    return edit(lambda c: c["annotations"][4].update(segmentation=value))


def raw(value: str) -> Callable[[Path], object]:
    """A value that `json` would not write."""

    def damage(root: Path) -> None:
        segmentation("HERE")(root)
        (root / JSON).write_text((root / JSON).read_text().replace('"HERE"', value))

    return damage


def runs(*counts: int, size: Any = (6, 8)) -> Callable[[Path], object]:
    return segmentation({"size": list(size), "counts": list(counts)})


def every_category(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], object]:
    def damage(root: Path) -> None:
        for path in (root / "annotations").iterdir():
            published = json.loads(path.read_text())
            change(published["categories"])
            write(path, published)

    return damage


def link_out(root: Path) -> None:
    save(root.parent / "outside.png", photo(0, HEIGHT, WIDTH))
    (root / "val2017/v3.png").unlink()
    (root / "val2017/v3.png").symlink_to(root.parent / "outside.png")


# What is done, the kind and the file of what is said, its text, and the images it takes.
V3 = {"val2017/v3"}
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str, set[str]]] = {
    "no segmentation": (
        edit(lambda c: c["annotations"][4].pop("segmentation")),
        "bad-annotation", JSON, "annotation 5: segmentation: Field required", V3,
    ),
    "text": (segmentation("x"), "bad-annotation", JSON, "annotation 5: segmentation", V3),
    "crowd": (edit(lambda c: c["annotations"][4].update(iscrowd=2)), "bad-annotation", JSON, "5: iscrowd", V3),
    "no id": (edit(lambda c: c["annotations"][4].pop("id")), "bad-annotation", JSON, r"annotations\[4\]: id", V3),
    "nan": (raw("[[1, 2, NaN, 4, 5, 6]]"), "bad-annotation", JSON, "annotation 5: NaN is no number", V3),
    "infinity": (raw("[[1, 2, -Infinity]]"), "bad-annotation", JSON, "annotation 5: -Infinity is no number", V3),
    "over float": (raw("[[1, 2, 1e999, 4, 5, 6]]"), "bad-polygon", JSON, "annotation 5: .* not finite", V3),
    "deep": (raw("[" * 200_000 + "]" * 200_000), "bad-annotation", JSON, "annotation 5: is nested too deeply", V3),
    "category": (
        edit(lambda c: c["annotations"][4].update(category_id=17)),
        "unknown-category", JSON, "category ids 17 are not in categories", V3,
    ),
    "same annotation": (
        edit(lambda c: c["annotations"][4].update(id=3)),
        "duplicate-id", JSON, "annotation 3: the id is there twice", V3 | {"val2017/v1"},
    ),
    "same image": (edit(lambda c: c["images"].append(c["images"][2])), "duplicate-id", JSON, "image id 2 is", V3),
    "same name": (
        edit(lambda c: c["images"].append(c["images"][2] | {"id": 9})),
        "duplicate-id", JSON, "image file_name 'v3.png' is there twice", V3,
    ),
    "two points": (segmentation([[1, 1, 4, 4]]), "bad-polygon", JSON, "annotation 5: a polygon of 2 points", V3),
    "odd": (segmentation([[1, 1, 4, 4, 5]]), "bad-polygon", JSON, "annotation 5: .* an x and a y", V3),
    "far": (segmentation([[1, 1, 4, 1e9, 5, 5]]), "bad-polygon", JSON, "coordinate 1000000000, over limit", V3),
    "outside": (segmentation([square(9, 1, 3)]), "outside-image", JSON, "annotation 5: lies wholly outside", V3),
    "short": (runs(3, 4), "bad-rle", JSON, r"annotation 5: RLE sum 7 != h\*w 48", V3),
    "long": (runs(3, 400), "bad-rle", JSON, r"annotation 5: RLE sum .* != h\*w 48", V3),
    "negative run": (runs(60, -12), "bad-rle", JSON, "annotation 5: RLE has a run of length -12", V3),
    "negative size": (runs(48, size=(-6, -8)), "bad-rle", JSON, r"RLE size \[-6, -8\], expected \[6, 8\]", V3),
    "huge size": (runs(4 * 10**10, size=(200_000, 200_000)), "bad-rle", JSON, r"expected \[6, 8\]", V3),
    "no counts": (segmentation({"size": [6, 8]}), "bad-rle", JSON, "RLE counts must be text or a list", V3),
    "short string": (segmentation({"size": [6, 8], "counts": "34"}), "bad-rle", JSON, r"RLE sum 7 != h\*w", V3),
    "huge image": (
        edit(lambda c: c["images"][2].update(height=200_000, width=200_000)),
        "too-large", JSON, "pixels 200000x200000 over limit", V3,
    ),
    "other size": (
        edit(lambda c: (c["images"][2].update(height=8, width=6), c["annotations"].pop())),
        "size-mismatch", "val2017/v3.png", "mask 6x8, image 8x6", V3,
    ),
    "no image": (lambda r: (r / "val2017/v3.png").unlink(), "missing-file", "val2017/v3.png", "missing", V3),
    "broken": (
        lambda r: (r / "val2017/v3.png").write_bytes((r / "val2017/v3.png").read_bytes()[:60]),
        "truncated|corrupt", "val2017/v3.png", "PNG", V3,
    ),
    "not named": (
        lambda r: save(r / "val2017/v9.png", photo(0, 4, 4)),
        "no-mask", "val2017/v9.png", "no instances_.* names it", {"val2017/v9"},
    ),
    "unknown image": (
        edit(lambda c: c["images"].pop()), "unknown-image", JSON, "image 2 is not in images, and has 1 annotations", V3,
    ),
    "no name": (
        edit(lambda c: c["images"][2].pop("file_name")), "bad-annotation", JSON, r"images\[2\]: file_name", V3,
    ),
    "no size": (edit(lambda c: c["images"][2].pop("height")), "bad-annotation", JSON, r"images\[2\]: height", V3),
    "same stem": (
        lambda r: (
            shutil.copy(r / "val2017/v2.png", r / "val2017/v3.jpg"),
            edit(lambda c: c["images"][1].update(file_name="v3.jpg"))(r),
        ),
        "name-clash", JSON, "v3.png is there twice, also as val2017/v3.jpg", V3 | {"val2017/v2"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "file", "message", "taken"), FAULTS.values(), ids=FAULTS)
def test_faults_take_their_images_and_no_others(root, damage, kind, file, message, taken):
    damage(root)
    records, faults = take(root, "coco")
    said = [f for f in faults if f.outcome != "mended"]
    assert {f.outcome for f in said} == {"quarantined"}
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("; ".join(f"{f.line}" for f in said if f.kind in kind.split("|") and f.file == file))
    assert {r.id for r in records} >= IMAGES - taken
    assert accounted(records, faults) >= IMAGES | taken
    assert not {r.id for r in records} & {f.item for f in said} - {"val2017/v3"}


STOPS: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "climbs": (
        edit(lambda c: c["images"][2].update(file_name="../../../etc/hostname")), "outside-root", "outside dataset",
    ),
    "absolute": (edit(lambda c: c["images"][2].update(file_name="/etc/hostname")), "outside-root", "/etc/hostname: "),
    "link": (link_out, "outside-root", "val2017/v3.png: a link that leads outside"),
    "no json": (lambda r: shutil.rmtree(r / "annotations"), "layout", "holds no instances_"),
    "no folder": (lambda r: shutil.rmtree(r / "val2017"), "layout", "none of the folders val2017, images/val2017"),
    "damaged": (lambda r: (r / JSON).write_text('{"images": ['), "unreadable-json", "Expecting value"),
    "deep": (lambda r: (r / JSON).write_text("[" * 200_000), "unreadable-json", "expected '{'"),
    "list": (lambda r: (r / JSON).write_text("[]"), "unreadable-json", "expected '{'"),
    "no categories": (edit(lambda c: c.pop("categories")), "unreadable-json", "has no categories"),
    "no image id": (
        edit(lambda c: c["annotations"][4].pop("image_id")), "unreadable-json", "5: image_id: Field required",
    ),
    "unnamed category": (edit(lambda c: c["categories"][1].pop("name")), "unreadable-json", r"categories\[1\]: name"),
    "other categories": (edit(lambda c: c["categories"].pop()), "class-table", "has other categories than the first"),
    "same category": (every_category(lambda c: c.append(c[0] | {"name": "x"})), "class-table", "category id 7 is"),
    "same class": (every_category(lambda c: c.append(c[0] | {"id": 9})), "class-table", "class 'cat' is there twice"),
    "background": (
        every_category(lambda c: c[0].update(name="background")), "class-table", "class 0 has this name, use",
    ),
    "classes": (
        every_category(lambda c: c.extend({"id": 100 + k, "name": str(k)} for k in range(253))),
        "class-table", "256 classes, allowed are 1 to 255",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "message"), STOPS.values(), ids=STOPS)
def test_what_stops_the_line(root, damage, kind, message):
    damage(root)
    _, faults = take(root, "coco")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError("; ".join(f.line for f in faults if f.kind == kind and f.outcome == "stop"))


MENDED: dict[str, tuple[Any, str, str]] = {
    "empty": ([], "covers-nothing", "annotation 5: covers no pixel, left out"),
    "point": ([[1, 1, 1, 1, 1, 1]], "covers-nothing", "annotation 5: covers no pixel, left out"),
    "no pixel": ({"size": [6, 8], "counts": [48]}, "covers-nothing", "annotation 5: covers no pixel, left out"),
    "clipped": ([square(6, 4, 9)], "clipped", "annotation 5: reaches out of the image of 8x6, clipped"),
    "part": ([square(6, 4, 2), [1, 1, 2, 2]], "degenerate-part", "annotation 5: 1 of 2 parts left out: no area"),
}


@pytest.mark.parametrize(("value", "kind", "reason"), MENDED.values(), ids=MENDED)
def test_what_is_mended_is_listed(root, value, kind, reason):
    segmentation(value)(root)
    record = read(root)["val2017/v3"]
    assert [(f.kind, f.file, f.reason, f.item) for f in record.mended] == [(kind, JSON, reason, "val2017/v3")]
    left = 0 if kind == "covers-nothing" else 4
    assert [s.area for s in record.segments] == [left] * bool(left)
    assert (record.semantic == 2).sum() == left


def test_images_published_without_annotations_are_left_out(root):
    save(root / "test2017/x.png", photo(0, 4, 4))
    save(root / "images/unlabeled2017/y.png", photo(0, 4, 4))
    records, faults = take(root, "coco")
    assert [(f.kind, f.item) for f in faults] == [
        ("unlabelled", "images/unlabeled2017/y"),
        ("unlabelled", "test2017/x"),
    ]
    assert len(records) == 4


def test_an_image_that_exif_turns_is_read_as_its_annotations_see_it(root):
    from PIL import Image

    for size, turned in (((6, 8), False), ((8, 6), True)):
        exif = Image.Exif()
        exif[0x0112] = 6
        pixels = photo(0, *size)
        save(root / "val2017/v3.png", pixels, exif=exif)
        record = read(root)["val2017/v3"]
        np.testing.assert_array_equal(record.pixels, np.rot90(pixels, -1) if turned else pixels)
        assert "exif-rotation" in {f.kind for f in record.mended}


def test_the_real_format(tmp_path):
    """Two COCO images whose objects and stuff are published as compressed RLE: areas and boxes as published."""
    sample = Path(os.environ.get("MASKLINE_DATA", "")) / "coco-panoptic-sample"
    if not os.environ.get("MASKLINE_DATA") or not sample.is_dir():
        pytest.skip("MASKLINE_DATA names no folder with coco-panoptic-sample in it")
    shutil.copytree(sample / "input_images", tmp_path / "examples")
    (tmp_path / "annotations").mkdir()
    shutil.copy(sample / "panoptic_coco_detection_format.json", tmp_path / "annotations/instances_examples.json")
    published = json.loads((tmp_path / "annotations/instances_examples.json").read_text())
    places = {c["id"]: k for k, c in enumerate(published["categories"], start=1)}
    records = read(tmp_path)
    assert len(records) == 2
    for image in published["images"]:
        record = records[f"examples/{Path(image['file_name']).stem}"]
        of = [a for a in published["annotations"] if a["image_id"] == image["id"]]
        want = sorted((places[a["category_id"]], a["area"], tuple(a["bbox"]), bool(a["iscrowd"])) for a in of)
        assert sorted((s.category, s.area, s.bbox, s.iscrowd) for s in record.segments) == want


def test_an_image_that_two_files_name_is_left_out(root):
    """Its objects are split between them: either alone would teach the others' as background."""
    (root / "annotations/instances_train2017.json").unlink()
    shutil.rmtree(root / "train2017")
    (root / "val2017").rename(root / "images")
    shutil.copy(root / JSON, root / "annotations/instances_more.json")
    records, faults = take(root, "coco")
    assert records == []
    assert {(f.kind, f.file, f.item) for f in faults} == {("name-clash", JSON, f"images/v{k}") for k in (1, 2, 3)}


def test_images_that_nothing_names_are_told(root):
    """A folder without its json, another picture format, and what COCO publishes without annotations."""
    (root / "annotations/instances_train2017.json").unlink()
    save(root / "test2017/x.png", photo(0, HEIGHT, WIDTH))
    save(root / "images/unlabeled2017/y.png", photo(0, HEIGHT, WIDTH))
    save(root / "val2017/v9.gif", photo(0, HEIGHT, WIDTH))
    save(root / "stuffthingmaps/val2017/v1.png", photo(0, HEIGHT, WIDTH))
    records, faults = take(root, "coco")
    assert {r.id for r in records} == IMAGES - {"train2017/t1"}
    assert {(f.kind, f.item) for f in faults} == {
        ("no-mask", "train2017/t1"),
        ("unlabelled", "test2017/x"),
        ("unlabelled", "images/unlabeled2017/y"),
        ("suffix-unknown", "val2017/v9"),
    }
