"""One mask per object: a tiny folder as the 2018 Data Science Bowl lays it out; the real one where it is at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data import rle
from tests.data.formats.taking import accounted, photo, save, scan, take

SIZE = (6, 8)
FORMAT = "instance-folder"


def mask(x: int, y: int, width: int, height: int, value: int = 255) -> np.ndarray:
    made = np.zeros(SIZE, np.uint8)
    made[y : y + height, x : x + width] = value
    return made


LARGE, SMALL, RING = mask(0, 0, 5, 5), mask(3, 3, 3, 2, value=7), mask(5, 0, 3, 3)
RING[1, 6] = 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, key in enumerate(("aa", "bb", "cc")):
        alpha = np.full((*SIZE, 1), 255, np.uint8)
        save(tmp_path / f"{key}/images/{key}.png", np.concatenate([photo(k, *SIZE), alpha], -1))
        save(tmp_path / f"{key}/masks/1.png", LARGE)
    save(tmp_path / "aa/masks/2.png", SMALL)
    save(tmp_path / "aa/masks/0.png", RING)
    (tmp_path / "stage1_train_labels.csv").write_text("ImageId,EncodedPixels\n")
    return tmp_path


def test_each_mask_is_an_object(root):
    records, faults = take(root, FORMAT)
    assert faults == []
    assert [(c.name, c.isthing) for c in scan(root, FORMAT).classes] == [("background", False), ("object", True)]
    assert [(r.id, r.split) for r in records] == [("aa", "train"), ("bb", "train"), ("cc", "train")]
    assert [item.split for item in scan(root, FORMAT).items] == [None] * 3
    record = records[0]
    for segment, made in zip(record.segments, (SMALL, RING, LARGE), strict=True):
        np.testing.assert_array_equal(rle.decode(segment.counts, *SIZE), made > 0)
        assert (segment.category, segment.iscrowd, segment.area) == (1, False, (made > 0).sum())
        assert segment.bbox == rle.bbox(made > 0)
    np.testing.assert_array_equal(record.semantic, (LARGE > 0) | (SMALL > 0) | (RING > 0))
    np.testing.assert_array_equal(record.pixels, photo(0, *SIZE))
    assert [(f.kind, f.file) for f in record.mended] == [("alpha", "aa/images/aa.png")]


def test_one_named_class(root):
    (root / "classes.yaml").write_text("- {name: nucleus, color: [1, 2, 3]}\n")
    classes = scan(root, FORMAT).classes
    assert [(c.name, c.color, c.isthing) for c in classes[1:]] == [("nucleus", (1, 2, 3), True)]
    assert len(take(root, FORMAT)[0]) == 3


def test_several_classes_are_sub_folders(root):
    (root / "classes.yaml").write_text("- name: cell\n- name: nucleus\n")
    for key in ("aa", "bb", "cc"):
        (root / f"{key}/masks").rename(root / f"{key}/nucleus")
        (root / f"{key}/masks").mkdir()
        (root / f"{key}/nucleus").rename(root / f"{key}/masks/nucleus")
    save(root / "aa/masks/cell/9.png", mask(0, 5, 8, 1))
    records, faults = take(root, FORMAT)
    assert faults == []
    assert [s.category for s in records[0].segments] == [2, 1, 2, 2]
    np.testing.assert_array_equal(np.unique(records[0].semantic[5]), [1])
    found = scan(root, FORMAT)
    assert [found.labels(item) for item in found.items] == [{1, 2}, {2}, {2}]


def test_folders_that_are_called_like_splits(root):
    (root / "stage1_train").mkdir()
    (root / "stage1_test").mkdir()
    (root / "aa").rename(root / "stage1_train/aa")
    (root / "bb").rename(root / "stage1_test/bb")
    (root / "cc").rename(root / "stage1_test/cc")
    (root / "stage1_test/cc/masks/1.png").unlink()
    records, faults = take(root, FORMAT)
    assert [(r.id, r.split) for r in records] == [("stage1_test/bb", "test"), ("stage1_train/aa", "train")]
    assert [(f.kind, f.item) for f in faults] == [("unlabelled", "stage1_test/cc")]


Change = Callable[[Path], object]
# What is done, the kind and the file of what is said, and its text.
FAULTS: dict[str, tuple[Change, str, str, str]] = {
    "no masks": (lambda r: (r / "cc/masks/1.png").unlink(), "no-mask", "cc/images/cc.png", "no masks in cc/masks/"),
    "no image": (lambda r: (r / "cc/images/cc.png").unlink(), "no-image", "cc/masks/1.png", "no image in cc/images/"),
    "two images": (
        lambda r: save(r / "cc/images/x.png", photo(0, *SIZE)), "name-clash", "cc/images/cc.png", "2 images in one",
    ),
    "other size": (
        lambda r: save(r / "cc/masks/2.png", LARGE[1:]), "size-mismatch", "cc/masks/2.png", "mask 8x5, image 8x6",
    ),
    "transposed": (
        lambda r: save(r / "cc/masks/1.png", LARGE.T), "size-mismatch", "cc/masks/1.png", "mask 6x8, image 8x6",
    ),
    "colours": (
        lambda r: save(r / "cc/masks/2.png", photo(0, *SIZE)), "colour-mask", "cc/masks/2.png", "one channel",
    ),
    "jpeg": (lambda r: save(r / "cc/masks/2.jpg", LARGE), "suffix-unknown", "cc/masks/2.jpg", "allowed: .png"),
    "broken mask": (
        lambda r: (r / "cc/masks/1.png").write_bytes((r / "cc/masks/1.png").read_bytes()[:-20]),
        "truncated", "cc/masks/1.png", "truncated PNG",
    ),
    "empty file": (lambda r: (r / "cc/masks/2.png").write_bytes(b""), "empty-file", "cc/masks/2.png", "0 bytes"),
    "broken image": (
        lambda r: (r / "cc/images/cc.png").write_bytes(b"\x89PNG\r\n\x1a\n"), "corrupt", "cc/images/cc.png", "PNG",
    ),
    "class": (
        lambda r: save(r / "cc/masks/dog/1.png", LARGE),
        "unknown-category", "cc/masks/dog/1.png", r"'dog' is no class \(classes: object\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "file", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_takes_its_image_and_no_other(root, damage, kind, file, message):
    damage(root)
    records, faults = take(root, FORMAT)
    assert [(f.kind, f.file, f.item, f.outcome) for f in faults] == [(kind, file, "cc", "quarantined")]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(faults[0].reason)
    assert [r.id for r in records] == ["aa", "bb"]


def test_a_mask_that_went_missing_takes_its_image(root):
    found = scan(root, FORMAT)
    (root / "cc/masks/1.png").unlink()
    with pytest.raises(Exception, match=r"cc/masks/1.png: missing"):
        found.read(found.items[2])


def test_images_elsewhere_are_told(root):
    save(root / "preview.png", photo(0, *SIZE))
    records, faults = take(root, FORMAT)
    assert [(f.kind, f.item) for f in faults] == [("name", "preview.png")]
    assert accounted(records, faults) == {"aa", "bb", "cc", "preview.png"}


def test_masks_of_no_pixel_are_left_out(root):
    save(root / "cc/masks/2.png", mask(0, 0, 0, 0))
    record = take(root, FORMAT)[0][2]
    assert [s.area for s in record.segments] == [25]
    assert ("covers-nothing", "cc/masks/2.png", "cc") in [(f.kind, f.file, f.item) for f in record.mended]


def test_masks_fit_an_image_that_exif_turns(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "bb/images/bb.png", photo(0, 8, 6), exif=exif)
    records, faults = take(root, FORMAT)
    assert faults == []
    np.testing.assert_array_equal(records[1].pixels, np.rot90(photo(0, 8, 6), -1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- name: background\n", "class 0 has this name"),
        ("- nam: x\n", "not as expected"),
        ("".join(f"- name: c{k}\n" for k in range(255)), "256 classes"),
    ],
    ids=["background", "key", "many"],
)
def test_class_tables_that_cannot_be_used(root, text, message):
    (root / "classes.yaml").write_text(text)
    _, faults = take(root, FORMAT)
    assert [(f.kind, f.file) for f in faults if f.outcome == "stop"] == [("class-table", "classes.yaml")]
    assert message in faults[0].reason


def test_masks_need_a_class_where_there_are_several(root):
    (root / "classes.yaml").write_text("- name: cell\n- name: nucleus\n")
    records, faults = take(root, FORMAT)
    assert records == []
    assert {(f.kind, f.reason) for f in faults} == {
        ("instance-label", "lies in no folder of a class: masks/{cell, nucleus}/")
    }


def test_another_layout(tmp_path):
    save(tmp_path / "images/a.png", photo(0, *SIZE))
    assert "layout" in {f.kind for f in take(tmp_path, FORMAT)[1]}


@pytest.mark.slow
def test_the_nuclei():
    """As many objects as there are masks, and as many pixels as are set in them."""
    root = Path(os.environ.get("MASKLINE_DATA", "")) / "nuclei"
    if not os.environ.get("MASKLINE_DATA") or not root.is_dir():
        pytest.skip("MASKLINE_DATA names no folder with nuclei in it")
    records, faults = take(root, FORMAT)
    assert faults == []
    assert {r.id for r in records} == {p.name for p in root.iterdir() if p.is_dir()}
    for record in records:
        masks = sorted((root / record.id / "masks").iterdir())
        empty = [f for f in record.mended if f.kind == "covers-nothing"]
        assert len(record.segments) + len(empty) == len(masks)
        areas = [np.count_nonzero(np.asarray(Image.open(m))) for m in masks]
        assert sorted(s.area for s in record.segments) == sorted(a for a in areas if a)
        assert (record.semantic == 1).sum() <= sum(areas)


@pytest.mark.parametrize("name", ["masks/2.gif", "masks/notes.txt", "images/cc.gif"])
def test_no_file_of_an_image_is_passed_over(root, name):
    """An object whose mask is not read would be taught as background."""
    (root / "cc" / name).write_bytes(b"GIF89a")
    records, faults = take(root, FORMAT)
    assert [r.id for r in records] == ["aa", "bb"]
    assert [(f.kind, f.file, f.item, f.outcome) for f in faults] == [
        ("suffix-unknown", f"cc/{name}", "cc", "quarantined")
    ]


def test_an_image_of_another_format_is_told_once(root):
    (root / "cc/images/cc.png").rename(root / "cc/images/cc.gif")
    _, faults = take(root, FORMAT)
    assert [(f.kind, f.item) for f in faults] == [("suffix-unknown", "cc")]
