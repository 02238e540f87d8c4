"""CamVid in both releases: hand-made pixels, every fault, and the real one where it is at hand."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.faults import Fault
from pipelines.data.formats import camvid
from pipelines.data.formats.source import Scan, Source
from pipelines.data.schema import Record
from pipelines.data.tree import Tree
from tests.data.formats.taking import accounted, take

SIZE = (4, 6)
MASK = np.arange(24, dtype=np.uint8).reshape(SIZE) % 12
CLASSES = [
    "sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian", "bicyclist",
]  # fmt: skip
# The grouping, colour by colour: https://www.mathworks.com/help/vision/ug/semantic-segmentation-using-deep-learning.html
GROUPS = {
    0: [(128, 128, 128)],
    1: [(0, 128, 64), (128, 0, 0), (64, 192, 0), (64, 0, 64), (192, 0, 128)],
    2: [(192, 192, 128), (0, 0, 64)],
    3: [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
    4: [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
    5: [(128, 128, 0), (192, 192, 0)],
    6: [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
    7: [(64, 64, 128)],
    8: [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    9: [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
    10: [(0, 128, 192), (192, 0, 192)],
    255: [(0, 0, 0)],
}


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def put(root: Path, split: str, name: str, line: str = "/SegNet/CamVid/{0}/{1}.png /SegNet/CamVid/{0}annot/{1}.png"):
    save(root / f"{split}/{name}.png", np.full((*SIZE, 3), len(name), np.uint8))
    save(root / f"{split}annot/{name}.png", MASK)
    with (root / f"{split}.txt").open("a") as file:
        file.write(line.format(split, name) + "\n")


@pytest.fixture
def segnet(tmp_path: Path) -> Path:
    for split, name in [("train", "0001TP_006690"), ("train", "0016E5_1"), ("val", "0016E5_2"), ("test", "Seq05VD_f0")]:
        put(tmp_path / "CamVid", split, name)
    return tmp_path


def scan(root: Path) -> Scan:
    return camvid.scan(Source(tree=Tree(str(root))))


def read(root: Path) -> list[Record]:
    found = scan(root)
    assert list(found.faults) == []
    return [found.read(item) for item in found.items]


def faults(root: Path) -> list[Fault]:
    """Of the scan and of every item; all images that the folder shows are accounted for."""
    records, said = take(root, "camvid")
    told = accounted(records, said)
    shown = {
        str(p.relative_to(root).with_suffix("")).removeprefix("CamVid/")
        for p in root.rglob("*.png")
        if "annot" not in p.parent.name and not p.name.endswith("_L.png")
    }
    assert shown <= told
    assert not {r.id for r in records} & {f.item for f in said}
    return said


def test_segnet_s_release(segnet):
    expected = [
        ("test/Seq05VD_f0", "test", "Seq05VD"), ("train/0001TP_006690", "train", "0001TP"),
        ("train/0016E5_1", "train", "0016E5"), ("val/0016E5_2", "val", "0016E5"),
    ]  # fmt: skip
    for root in (segnet, segnet / "CamVid"):
        found = scan(root)
        assert [(c.name, c.isthing) for c in found.classes] == [(name, False) for name in CLASSES]
        assert [(i.id, i.split, i.group) for i in found.items] == expected
        for item, record in zip(found.items, read(root), strict=True):
            np.testing.assert_array_equal(record.semantic, np.where(MASK == 11, 255, MASK))
            assert record.image == (segnet / f"CamVid/{item.id}.png").read_bytes()
            assert record.segments == ()
            assert found.labels(item) == set(range(11))


@pytest.mark.parametrize("line", ["{0}/{1}.png {0}annot/{1}.png", "C:/data/CamVid/{0}/{1}.png  /x/{0}annot/{1}.png"])
def test_only_the_end_of_a_listed_path_counts(tmp_path, line):
    put(tmp_path, "val", "0001TP_1", line)
    assert [(i.id, i.split) for i in scan(tmp_path).items] == [("val/0001TP_1", "val")]


def test_without_lists_the_folders_pair_by_name(segnet):
    before = [(i.id, i.split, i.files) for i in scan(segnet).items]
    for path in (segnet / "CamVid").glob("*.txt"):
        path.unlink()
    assert [(i.id, i.split, i.files) for i in scan(segnet).items] == before


COLORS = [color for group in GROUPS.values() for color in group]
GROUPED = np.array([label for label, group in GROUPS.items() for _ in group], np.uint8).reshape(4, 8)


def original(root: Path, names: dict[str, str], masks: str = "LabeledApproved_full") -> Path:
    for name, folder in names.items():
        save(root / folder / f"{name}.png", np.full((4, 8, 3), 7, np.uint8))
        save(root / masks / f"{name}_L.png", np.array(COLORS, np.uint8).reshape(4, 8, 3))
    return root


def test_the_original_release(tmp_path):
    assert len(set(COLORS)) == 32
    original(tmp_path, dict.fromkeys(["0001TP_006690", "Seq05VD_f00000", "0016E5_07959"], "701_StillsRaw_full"))
    found = scan(tmp_path)
    assert [(i.id, i.split, i.group) for i in found.items] == [
        ("701_StillsRaw_full/0001TP_006690", None, "0001TP"),
        ("701_StillsRaw_full/0016E5_07959", None, "0016E5"),
        ("701_StillsRaw_full/Seq05VD_f00000", None, "Seq05VD"),
    ]
    for record in read(tmp_path):
        np.testing.assert_array_equal(record.semantic, GROUPED)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/val.txt").write_text("701_StillsRaw_full/0016E5_07959\n")
    assert [i.split for i in scan(tmp_path).items] == [None, "val", None]


def test_folders_of_splits_with_colour_masks(tmp_path):
    for split in ("train", "val", "test"):
        original(tmp_path, {f"0006R0_{split}": split}, f"{split}_labels")
    assert [(r.id, r.split) for r in read(tmp_path)] == [(f"{s}/0006R0_{s}", s) for s in ("test", "train", "val")]


A = "train/0001TP_006690"
WRONG = {
    "missing mask": (lambda r: (r / "trainannot/0001TP_006690.png").unlink(), [("missing-file", A)], "missing"),
    "missing image": (lambda r: (r / f"{A}.png").unlink(), [("missing-file", A)], "missing"),
    "not listed": (
        lambda r: (r / "train.txt").write_text("train/0016E5_1.png trainannot/0016E5_1.png"), [("no-split", A)],
        "has a mask, and no list names it",
    ),
    "mask alone": (
        lambda r: save(r / "trainannot/b.png", MASK), [("no-image", "train/b")], "has no image train/b.*",
    ),
    "image alone": (lambda r: save(r / "train/b.png", MASK), [("no-mask", "train/b")], "has no mask"),
    "two splits": (
        lambda r: (r / "val.txt").write_text(
            f"val/0016E5_2.png valannot/0016E5_2.png\n{A}.png trainannot/0001TP_006690.png"
        ),
        [("duplicate-id", A)], "is listed 2 times: train, val",
    ),
    "no pair": (
        lambda r: (r / "test.txt").write_text("test/Seq05VD_f0.png testannot/Seq05VD_f0.png\nalone\n"),
        [("bad-annotation", "test.txt, line 2")], "'alone' is no image and its mask",
    ),
    "another class": (
        lambda r: save(r / "trainannot/0001TP_006690.png", MASK + 1), [("label-value", A)],
        "ids {12} outside 0..11, ignore 255",
    ),
    "size": (
        lambda r: save(r / "trainannot/0001TP_006690.png", MASK[:, 1:]), [("size-mismatch", A)],
        "mask 5x4, image 6x4",
    ),
    "truncated": (
        lambda r: (r / f"{A}.png").write_bytes((r / f"{A}.png").read_bytes()[:-14]), [("corrupt", A)], "PNG",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "expected", "said"), WRONG.values(), ids=WRONG.keys())
def test_faults(segnet, damage, expected, said):
    damage(segnet / "CamVid")
    found = faults(segnet)
    assert [(f.kind, f.item) for f in found] == expected, found
    assert found[0].outcome == "quarantined"
    assert said in found[0].reason


def test_a_list_that_leads_out_stops_the_line(segnet):
    (segnet / "CamVid/val.txt").write_text("../../etc/hostname valannot/0016E5_2.png\n")
    assert ("outside-root", "stop") in {(f.kind, f.outcome) for f in faults(segnet)}


def test_faults_of_the_original(tmp_path):
    original(tmp_path, dict.fromkeys("abcd", "701_StillsRaw_full"))
    (tmp_path / "701_StillsRaw_full/a.png").unlink()
    (tmp_path / "LabeledApproved_full/b_L.png").unlink()
    save(tmp_path / "LabeledApproved_full/c_L.png", np.full((4, 8, 3), 3, np.uint8))
    said = {(f.kind, f.item, f.reason) for f in faults(tmp_path)}
    assert said == {
        ("no-image", "LabeledApproved_full/a_L", "has no image a.*"),
        ("no-mask", "701_StillsRaw_full/b", "has no mask b_L.png"),
        ("label-value", "701_StillsRaw_full/c", "colours [3, 3, 3] are not in the class table"),
    }


def test_another_layout_is_refused(tmp_path):
    save(tmp_path / "images/a.png", MASK)
    (fault,) = scan(tmp_path).faults
    assert (fault.kind, fault.outcome) == ("layout", "stop")
    assert fault.reason.startswith("there is no folder trainannot or valannot or testannot in /")


def test_the_real_one():
    root = Path(os.environ.get("MASKLINE_DATA", "")) / "camvid"
    if not os.environ.get("MASKLINE_DATA") or not root.is_dir():
        pytest.skip("MASKLINE_DATA names no folder with camvid in it")
    found = scan(root)
    assert list(found.faults) == []
    assert Counter(i.split for i in found.items) == {"train": 367, "val": 101}
    assert Counter(i.group for i in found.items) == {"0001TP": 62, "0006R0": 101, "0016E5": 305}
    records = [found.read(item) for item in found.items]
    for split in ("train", "val"):
        listed = [line.split() for line in (root / f"{split}.txt").read_text().splitlines()]
        mine = [r for r in records if r.split == split]
        assert [r.id for r in mine] == sorted(image.removesuffix(".jpg") for image, _ in listed)
        assert all(r.image == (root / f"{r.id}.jpg").read_bytes() for r in mine)
        counted, direct = np.zeros(256, np.int64), np.zeros(256, np.int64)
        for record in mine:
            counted += np.bincount(record.semantic.ravel(), minlength=256)
        for _, mask in listed:
            with Image.open(root / mask) as picture:
                direct += np.bincount(np.array(picture).ravel(), minlength=256)
        np.testing.assert_array_equal(counted[:11], direct[:11])
        assert (counted[255], counted.sum()) == (direct[11], direct.sum())
    assert {r.mended for r in records} == {()}


def test_which_of_two_images_is_meant_nobody_knows(segnet):
    save(segnet / "CamVid/val/0016E5_2.bmp", np.full((*SIZE, 3), 9, np.uint8))
    assert {(f.kind, f.item) for f in faults(segnet)} == {("name-clash", "val/0016E5_2")}


def test_which_of_two_of_the_original_is_meant_nobody_knows(tmp_path):
    original(tmp_path, dict.fromkeys("abc", "701_StillsRaw_full"))
    save(tmp_path / "more/a.png", np.full((4, 8, 3), 7, np.uint8))
    save(tmp_path / "more/b_L.png", np.full((4, 8, 3), 3, np.uint8))
    assert {(f.kind, f.item) for f in faults(tmp_path)} == {
        ("name-clash", "701_StillsRaw_full/a"),
        ("name-clash", "more/a"),
        ("name-clash", "701_StillsRaw_full/b"),
    }
    assert [i.id for i in scan(tmp_path).items] == ["701_StillsRaw_full/c"]
