"""PASCAL-Context in its four forms, which must say the same."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io as matlab

from pipelines.data.faults import Fault
from pipelines.data.formats import pascal_context
from pipelines.data.formats.source import Scan, Source
from pipelines.data.tree import Tree
from tests.data.formats.taking import accounted, take

# The ids among the 459 of classes 1..59 of 59_labels.txt, as published converters have them.
OF_459 = [
    2, 23, 25, 31, 34, 45, 59, 65, 72, 98, 397, 113, 207, 258, 284, 308, 347, 368, 416, 427, 9, 18, 22, 33, 44, 46, 68,
    80, 85, 104, 115, 144, 158, 159, 162, 187, 189, 220, 232, 259, 260, 105, 296, 355, 295, 324, 326, 349, 354, 360,
    366, 19, 415, 420, 424, 440, 445, 454, 458,
]  # fmt: skip
NAMES_59 = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed", "bench",
    "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door", "fence", "floor", "flower",
    "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform", "sign", "plate",
    "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedcloth", "track", "tree", "truck", "wall", "water",
    "window", "wood",
]  # fmt: skip
# mmsegmentation's order, with the names of 59_labels.txt.
BY_NAME = [
    "aeroplane", "bag", "bed", "bedcloth", "bench", "bicycle", "bird", "boat", "book", "bottle", "building",
    "bus", "cabinet", "car", "cat", "ceiling", "chair", "clothes", "computer", "cow", "cup", "curtain", "dog",
    "door", "fence", "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike",
    "mountain", "mouse", "person", "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves",
    "sidewalk", "sign", "sky", "snow", "sofa", "diningtable", "track", "train", "tree", "truck", "tvmonitor",
    "wall", "water", "window", "wood",
]  # fmt: skip
NAMES_33 = [
    *NAMES_59[:20], "sky", "grass", "ground", "road", "building", "tree", "water", "mountain", "wall", "floor", "track",
    "keyboard", "ceiling",
]  # fmt: skip
SIZE = (6, 10)
TRUTH = np.arange(60).reshape(SIZE)  # 0, and 59 classes as 59_context_labels has them


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_mat(path: Path, **variables: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    matlab.savemat(path, variables, do_compression=True)


def put(root: Path, key: str, form: str) -> None:
    names = np.array(["", *NAMES_59])[TRUTH]
    if form == "trainval":
        mat = np.array([431, *OF_459], np.uint16)[TRUTH]  # "unknown" is a class that is not among the 59
        mat[0, 0] = [431, 255, 1][len(key) % 3]
        save_mat(root / f"labels/trainval/{key}.mat", LabelMap=mat)
        return
    order = {"59_context_labels": NAMES_59, "SegmentationClassContext": BY_NAME, "33_context_labels": NAMES_33}[form]
    values = {name: k for k, name in enumerate(order, start=1)}
    mask = np.vectorize(lambda name: values.get(name, 0))(names).astype(np.uint8)
    save(root / f"VOCdevkit/VOC2010/{form}/{key}.png", mask)


def photo(root: Path, key: str) -> None:
    save(root / f"VOCdevkit/VOC2010/JPEGImages/{key}.jpg", np.full((*SIZE, 3), 80, np.uint8))


def add(root: Path, name: str, text: str) -> None:
    path = root / f"VOCdevkit/VOC2010/ImageSets/{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def scan(root: Path) -> Scan:
    return pascal_context.scan(Source(tree=Tree(str(root))))


def faults(root: Path) -> list[Fault]:
    records, said = take(root, "pascal-context")
    listed = accounted(records, said)
    assert {p.stem for p in root.rglob("JPEGImages/*.jpg")} <= listed
    assert not {r.id for r in records} & {f.item for f in said}
    return said


@pytest.fixture(params=["59_context_labels", "SegmentationClassContext", "trainval", "33_context_labels"])
def form(request) -> str:
    return request.param


@pytest.fixture
def root(tmp_path: Path, form: str) -> Path:
    for key in ("2008_000002", "2008_000003"):
        photo(tmp_path, key)
        put(tmp_path, key, form)
    photo(tmp_path, "2008_000001")
    return tmp_path


def test_all_forms_say_the_same(root, form):
    found = scan(root)
    names = NAMES_33 if form == "33_context_labels" else NAMES_59
    assert [(c.name, c.isthing) for c in found.classes] == [(name, False) for name in names]
    expected = np.array([names.index(name) if name in names else 255 for name in ["", *NAMES_59]])[TRUTH]
    assert [(i.id, i.split) for i in found.items] == [("2008_000002", None), ("2008_000003", None)]
    for item in found.items:
        record = found.read(item)
        np.testing.assert_array_equal(record.semantic, expected)
        assert record.segments == ()
        assert found.labels(item) == set(range(len(names)))
    unlabelled = "VOCdevkit/VOC2010/JPEGImages/2008_000001.jpg"
    assert [(f.kind, f.file) for f in faults(root)] == [("unlabelled", unlabelled)]


def test_published_lists_are_the_splits(root):
    add(root, "Main/train", "2008_000002\n2008_000001\n")
    add(root, "Main/val", "2008_000003\n")
    assert [i.split for i in scan(root).items] == ["train", "val"]
    assert {f.kind for f in faults(root)} == {"unlabelled"}  # Main is for other tasks as well
    add(root, "SegmentationContext/train", "2008_000003\n2008_000001\n2008_9\n")
    add(root, "SegmentationContext/val", "2008_000002\n")
    assert [i.split for i in scan(root).items] == ["val", "train"]
    assert {(f.kind, f.item) for f in faults(root)} == {("no-mask", "2008_000001"), ("missing-file", "2008_9")}
    add(root, "SegmentationContext/val", "2008_000003\n")
    assert {(f.kind, f.item) for f in faults(root)} >= {("no-split", "2008_000002"), ("duplicate-id", "2008_000003")}


def test_of_several_forms_the_first_is_read(tmp_path):
    photo(tmp_path, "a")
    for form in ("33_context_labels", "trainval", "59_context_labels"):
        put(tmp_path, "a", form)
    assert [i.mask for i in scan(tmp_path).items] == ["VOCdevkit/VOC2010/59_context_labels/a.png"]


MASK = "VOCdevkit/VOC2010/59_context_labels/a.png"
WRONG = {
    "no image": (lambda r: (r / "VOCdevkit/VOC2010/JPEGImages/a.jpg").unlink(), "no-image", "has no image"),
    "unknown": (lambda r: save(r / MASK, np.full(SIZE, 60, np.uint8)), "label-value", "ids {60} outside 0..59"),
    "size": (lambda r: save(r / MASK, np.zeros((5, 10), np.uint8)), "size-mismatch", "mask 10x5, image 10x6"),
    "colours": (lambda r: save(r / MASK, np.zeros((*SIZE, 3), np.uint8)), "colour-mask", "needs colour map"),
    "cut": (lambda r: (r / MASK).write_bytes((r / MASK).read_bytes()[:-9]), "truncated", "PNG"),
}


@pytest.mark.parametrize(("damage", "kind", "said"), WRONG.values(), ids=WRONG.keys())
def test_faults(tmp_path, damage, kind, said):
    for key in "ab":
        photo(tmp_path, key)
        put(tmp_path, key, "59_context_labels")
    damage(tmp_path)
    (found,) = faults(tmp_path)
    assert (found.kind, found.item, found.outcome) == (kind, "a", "quarantined")
    assert said in found.reason


def test_layouts_that_are_none(tmp_path):
    (tmp_path / "x").write_text("")
    assert "there is no folder JPEGImages" in faults(tmp_path)[0].reason
    photo(tmp_path, "a")
    found = scan(tmp_path).faults
    assert [(f.kind, f.outcome) for f in found] == [("layout", "stop")]
    assert "labels in none of the folders 59_context_labels" in found[0].reason
    for folder in ("a", "b"):
        save(tmp_path / f"{folder}/59_context_labels/a.png", np.zeros(SIZE, np.uint8))
    said = "there are 2 folders 59_context_labels: a/59_context_labels, b/59_context_labels; leave one"
    assert [f.reason for f in scan(tmp_path).faults] == [said]


def test_a_value_over_459_is_told(tmp_path):
    photo(tmp_path, "a")
    save_mat(tmp_path / "trainval/a.mat", LabelMap=np.full(SIZE, 460, np.uint16))
    (found,) = faults(tmp_path)
    assert (found.kind, found.item) == ("label-value", "a")
    assert "ids {460} outside 0..459" in found.reason
