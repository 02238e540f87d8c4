"""PASCAL VOC's layout: read with every fault told, and written so that it reads the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.data import rle
from pipelines.data.exports.voc import write
from pipelines.data.faults import Fault
from pipelines.data.formats import shapes, voc
from pipelines.data.formats.source import Scan, Source
from pipelines.data.schema import IGNORE, Record
from pipelines.data.tree import Tree
from pipelines.errors import DataError
from tests.data.formats.taking import accounted, take

SIZE = (6, 8)
PALETTE = [channel for index in range(256) for channel in (index, 255 - index, index // 2)]
CLASS, OBJECT = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8)
CLASS[1:4, 1:4], OBJECT[1:4, 1:4] = 1, 1  # an aeroplane,
CLASS[1:4, 4:7], OBJECT[1:4, 4:7] = 15, 2  # and a person that it touches,
CLASS[2, 2] = OBJECT[2, 2] = 0  # with a hole,
CLASS[3, 6] = 1  # one of its pixels another class,
CLASS[4], OBJECT[4] = 255, 255  # above a border


def save(path: Path, pixels: np.ndarray, *, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(pixels)
    if palette and pixels.ndim == 2 and pixels.dtype == np.uint8:
        picture.putpalette(PALETTE)
    picture.save(path)


def photo(path: Path, seed: int = 0) -> None:
    save(path, np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8))


def put(base: Path, key: str, split: str = "", *, objects: bool = True, masks: bool = True) -> None:
    photo(base / f"JPEGImages/{key}.jpg", len(key))
    if masks:
        save(base / f"SegmentationClass/{key}.png", CLASS)
    if objects:
        save(base / f"SegmentationObject/{key}.png", OBJECT)
    for name in (split, *(["trainval"] if split in ("train", "val") else [])):
        if name:
            add(base / f"ImageSets/Segmentation/{name}.txt", key)


def add(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"{line}\n")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "VOCdevkit/VOC2012"
    put(base, "2007_000001", "train")
    put(base, "2007_000002", "val")
    put(base, "2008_000003", objects=False, masks=False)  # of the detection task
    return base


def scan(root: Path) -> Scan:
    return voc.scan(Source(tree=Tree(str(root))))


def read(root: Path) -> list[Record]:
    found = scan(root)
    assert [f for f in found.faults if not f.harmless] == []
    return [found.read(item) for item in found.items]


def faults(root: Path) -> list[Fault]:
    """Of the scan and of every item; the images that the folder shows are all accounted for."""
    records, said = take(root, "voc")
    listed = accounted(records, said)
    assert {p.stem for p in root.rglob("JPEGImages/*.jpg")} <= listed
    assert not {r.id for r in records} & {f.item for f in said}
    return said


def masks(record: Record) -> list[tuple[int, bool, np.ndarray]]:
    return [(s.category, s.iscrowd, rle.decode(s.counts, record.height, record.width)) for s in record.segments]


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_what_is_published_is_read(tmp_path, base, below):
    found = scan(tmp_path / below)
    assert len(found.classes) == 21
    assert [c.name for c in found.classes[:2]] == ["background", "aeroplane"]
    assert [c.isthing for c in found.classes] == [False] + [True] * 20
    assert [(i.id, i.split) for i in found.items] == [("2007_000001", "train"), ("2007_000002", "val")]
    for item in found.items:
        record = found.read(item)
        assert record.image == (base / f"JPEGImages/{item.id}.jpg").read_bytes()
        np.testing.assert_array_equal(record.semantic, CLASS)
        assert [s.category for s in record.segments] == [1, 15]
        for k, (_, crowd, mask) in enumerate(masks(record), start=1):
            assert not crowd
            np.testing.assert_array_equal(mask, k == OBJECT)
        assert [s.bbox for s in record.segments] == [(1, 1, 3, 3), (4, 1, 3, 3)]
        assert [s.area for s in record.segments] == [8, 9]
        assert found.labels(item) == {0, 1, 15}
    prefix = str(base.relative_to(tmp_path / below)) + "/" if below != "VOCdevkit/VOC2012" else ""
    said = Fault("unlabelled", f"{prefix}JPEGImages/2008_000003.jpg", "is published without a mask, and left out",
                 "2008_000003")  # fmt: skip
    assert faults(tmp_path / below) == [said]


def test_a_test_list_without_masks_is_left_out_and_one_with_masks_is_a_split(base):
    put(base, "2009_1", "test", objects=False, masks=False)
    put(base, "2009_2", "test", objects=False, masks=False)
    assert {(f.kind, f.item) for f in faults(base)} == {("unlabelled", k) for k in ("2008_000003", "2009_1", "2009_2")}
    save(base / "SegmentationClass/2009_1.png", CLASS)
    assert [(r.id, r.split, len(r.segments)) for r in map(scan(base).read, scan(base).items)] == [
        ("2007_000001", "train", 2), ("2007_000002", "val", 2), ("2009_1", "test", 0),
    ]  # fmt: skip
    assert [(f.kind, f.item) for f in faults(base)] == [("unlabelled", "2008_000003"), ("no-mask", "2009_2")]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("Segmentation/trainaug", "{}"),
        ("Segmentation/aug", "{}"),
        ("SegmentationAug/train_aug", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png"),
    ],
)
def test_what_sbd_adds(base, name, line):
    for key in ("2007_000001", "2008_000003"):
        add(base / f"ImageSets/{name}.txt", line.format(key))
    assert [i.id for i in scan(base).items] == ["2007_000001", "2007_000002"]  # its masks are not there
    other = np.where(CLASS == 15, 2, CLASS)
    for key in ("2007_000001", "2008_000003"):
        save(base / f"SegmentationClassAug/{key}.png", other, palette=False)
    records = read(base)
    assert [(r.id, r.split) for r in records] == [
        ("2007_000001", "train"), ("2007_000002", "val"), ("2008_000003", "train"),
    ]  # fmt: skip
    np.testing.assert_array_equal(records[0].semantic, CLASS)  # VOC's own mask
    np.testing.assert_array_equal(records[2].semantic, other)
    assert records[2].segments == ()


def test_without_train_and_val_the_line_splits(base):
    for split in ("train", "val"):
        (base / f"ImageSets/Segmentation/{split}.txt").unlink()
    assert [(i.id, i.split) for i in scan(base).items] == [("2007_000001", None), ("2007_000002", None)]


def test_own_classes(base):
    rows = [{"name": f"c{i}", "isthing": i == 1} for i in range(16)]
    (base / "classes.yaml").write_text(yaml.safe_dump(rows))
    assert [c.name for c in scan(base).classes] == [f"c{i}" for i in range(16)]
    assert {f.kind for f in faults(base)} == {"unlabelled", "instance-label"}  # 15 is no thing
    (base / "classes.yaml").write_text("- {nam: road}")
    assert ("class-table", "classes.yaml") in {(f.kind, f.file) for f in faults(base)}


A = "2007_000001"
WRONG = {
    "no image": (lambda b: (b / f"JPEGImages/{A}.jpg").unlink(), "no-image", "has no image JPEGImages/2007_000001.jpg"),
    "no mask": (lambda b: (b / f"SegmentationClass/{A}.png").unlink(), "no-mask", "has no mask SegmentationClass/"),
    "named only": (
        lambda b: add(b / "ImageSets/Segmentation/val.txt", "2007_9"), "missing-file", "missing, and in the list val",
    ),
    "in no list": (lambda b: put(b, "2007_7"), "no-split", "in none of the lists: train, val"),
    "in two lists": (
        lambda b: add(b / "ImageSets/Segmentation/val.txt", A), "duplicate-id", "in the lists of train and val",
    ),
    "colours": (
        lambda b: save(b / f"SegmentationClass/{A}.png", np.zeros((*SIZE, 3), np.uint8)), "colour-mask",
        "colour mask needs colour map",
    ),
    "unknown class": (
        lambda b: save(b / f"SegmentationClass/{A}.png", CLASS + (CLASS == 15) * np.uint8(6)), "label-value",
        "ids {21} outside 0..20, ignore 255 (8 pixels of 21)",
    ),
    "mask size": (
        lambda b: [save(b / f"Segmentation{k}/{A}.png", CLASS[:, :7]) for k in ("Class", "Object")], "size-mismatch",
        "mask 7x6, image 8x6",
    ),
    "object size": (
        lambda b: save(b / f"SegmentationObject/{A}.png", OBJECT[:5]), "size-mismatch", "objects 8x5, mask 8x6",
    ),
    "object on background": (
        lambda b: save(b / f"SegmentationObject/{A}.png", OBJECT + (CLASS == 0) * np.uint8(9)), "instance-label",
        "object 9 lies on 'background', which is no thing class",
    ),
    "object on void": (
        lambda b: save(b / f"SegmentationObject/{A}.png", OBJECT - (OBJECT == 255) * np.uint8(252)), "instance-label",
        "object 3 lies on ignored pixels alone",
    ),
    "truncated image": (
        lambda b: (b / f"JPEGImages/{A}.jpg").write_bytes((b / f"JPEGImages/{A}.jpg").read_bytes()[:-20]), "truncated",
        "truncated JPEG",
    ),
    "truncated mask": (
        lambda b: (b / f"SegmentationObject/{A}.png").write_bytes(b""), "empty-file", "not an allowed image: 0 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "said"), WRONG.values(), ids=WRONG.keys())
def test_faults(base, damage, kind, said):
    damage(base)
    found = [f for f in faults(base) if f.kind != "unlabelled"]
    assert [(f.kind, f.outcome) for f in found] == [(kind, "quarantined")], found
    assert said in found[0].reason


def test_all_files_of_an_image_are_judged_at_once(base):
    for folder in ("JPEGImages", "SegmentationClass", "SegmentationObject"):
        path = next((base / folder).glob(f"{A}.*"))
        path.write_bytes(path.read_bytes()[:-20])
    found = [f for f in faults(base) if f.kind != "unlabelled"]
    assert sorted(f.file.split("/")[0] for f in found) == ["JPEGImages", "SegmentationClass", "SegmentationObject"]


def test_layouts_that_are_none(tmp_path, base):
    photo(tmp_path / "empty/JPEGImages/a.jpg")
    assert [(f.kind, f.reason.partition(" in /")[0]) for f in scan(tmp_path / "empty").faults] == [
        ("layout", "there is no folder ImageSets/Segmentation")
    ]
    add(tmp_path / "VOCdevkit/VOC2007/ImageSets/Segmentation/train.txt", "a")
    said = "in VOCdevkit/VOC2007/, VOCdevkit/VOC2012/: set dataset.root to one of them"
    assert [(f.kind, f.outcome) for f in scan(tmp_path).faults] == [("layout", "stop")]
    assert said in scan(tmp_path).faults[0].reason
    (tmp_path / "none/ImageSets/Segmentation").mkdir(parents=True)
    add(tmp_path / "none/ImageSets/Segmentation/train.txt", "")
    assert "holds no list that names an image" in scan(tmp_path / "none").faults[0].reason


def plain(records: list[Record]) -> list[Record]:
    """Without crowds, which VOC cannot hold."""
    return [replace(r, segments=tuple(s for s in r.segments if not s.iscrowd)) for r in records]


def test_a_round_trip(tmp_path, classes):
    drawn = [(split, i) for split in ("train", "val", "test") for i in range(4)]
    wanted = plain([shapes.draw(*one, seed=7, height=64, width=80, difficulty=0.8) for one in drawn])
    raw = wanted[1]
    wanted[1] = replace(raw, image=np.ascontiguousarray(raw.pixels).tobytes(), format="raw")
    assert sum(len(r.segments) for r in wanted) > 20
    assert any((r.semantic == IGNORE).any() for r in wanted)
    write(wanted, classes, tmp_path)
    found = scan(tmp_path)
    assert found.classes == classes
    assert list(found.faults) == []
    by_id = {item.id: found.read(item) for item in found.items}
    assert by_id.keys() == {r.id for r in wanted}
    for record in wanted:
        again = by_id[record.id]
        assert again.split == record.split
        assert (again.format, bytes(again.image)) == ("png", bytes(record.image)) or record.format == "raw"
        np.testing.assert_array_equal(again.pixels, record.pixels)
        np.testing.assert_array_equal(again.semantic, record.semantic)
        np.testing.assert_equal(masks(again), masks(record))


def test_what_is_written_is_voc_s_layout(tmp_path, base):
    found = read(base)
    write(found, voc.scan(Source(tree=Tree(str(base)))).classes, tmp_path / "again")
    for name in (f"JPEGImages/{A}.jpg", "ImageSets/Segmentation/trainval.txt", "ImageSets/Segmentation/train.txt"):
        assert (tmp_path / "again" / name).read_bytes() == (base / name).read_bytes()
    for name, pixels in (("SegmentationClass", CLASS), ("SegmentationObject", OBJECT)):
        with Image.open(tmp_path / f"again/{name}/{A}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.array(picture), pixels)
            palette = picture.getpalette()
            assert palette[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
            assert palette[-3:] == [224, 224, 192]
    assert not (tmp_path / "again/classes.yaml").exists()
    assert {p.name for p in (tmp_path / "again/ImageSets/Segmentation").iterdir()} == {
        "train.txt", "val.txt", "trainval.txt",
    }  # fmt: skip


def test_what_voc_cannot_hold_is_refused(tmp_path, records):
    classes = shapes.classes()
    record = max(plain(records), key=lambda r: len(r.segments))
    first, second = record.segments[:2]
    bad = [
        replace(record, id="crowd", segments=(replace(first, iscrowd=True),)),
        replace(record, id="overlap", segments=(first, first)),
        replace(record, id="many", segments=(first,) * 255),
        replace(record, id="other", segments=(replace(first, category=second.category % 6 + 3),)),
        replace(record, id="../up"),
        replace(record, id="same"),
        replace(record, id="Same"),
    ]
    with pytest.raises(DataError) as error:
        write(bad, classes, tmp_path / "out")
    said = str(error.value)
    for part in (
        "crowd: object 1", "is a crowd", "overlap: object 2", "overlaps another", "many: 255 objects, allowed are 254",
        "has another class in the semantic map", "../up: the id is no path", "Same: the id is there twice",
    ):  # fmt: skip
        assert part in said
    assert not (tmp_path / "out/ImageSets").exists()
    assert not (tmp_path / "up.png").exists()
    with pytest.raises(DataError, match="is not empty"):
        write([record], classes, tmp_path / "out")


def test_what_trainval_alone_lists_is_told(tmp_path, base):
    add(base / "ImageSets/Segmentation/trainval.txt", "2009_gone")
    add(base / "ImageSets/Segmentation/trainval.txt", "2008_000003")  # it has no mask
    assert {(f.kind, f.item) for f in faults(tmp_path)} == {("missing-file", "2009_gone"), ("no-mask", "2008_000003")}


def test_which_of_two_images_a_mask_is_of_nobody_knows(tmp_path, base):
    photo(base / "JPEGImages/2007_000001.png")
    assert {(f.kind, f.item) for f in faults(tmp_path)} == {
        ("name-clash", "2007_000001"),
        ("unlabelled", "2008_000003"),
    }
