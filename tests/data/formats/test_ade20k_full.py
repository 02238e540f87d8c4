"""The full ADE20K: classes over two channels, objects in the third."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.data import rle
from pipelines.data.faults import Fault, FaultsError
from pipelines.data.formats import ade20k_full
from pipelines.data.formats.source import Scan, Source
from pipelines.data.schema import Record
from pipelines.data.tree import Tree

SIZE = (6, 9)
WALL, SKY, CAR, PERSON, HELMET = 2978, 2420, 401, 1831, 1231  # the last is none of those that are kept
PLACES, OBJECTS = np.zeros(SIZE, int), np.zeros(SIZE, int)
PLACES[0], OBJECTS[0] = SKY, 20
PLACES[1:3], OBJECTS[1:3] = WALL, 40
PLACES[3:5, 0:4], OBJECTS[3:5, 0:2], OBJECTS[3:5, 2:4] = CAR, 60, 90  # two that touch,
PLACES[3, 5:7], OBJECTS[3, 5:7] = PERSON, 60  # a person with the number of a car, in two parts,
PLACES[3, 8], OBJECTS[3, 8] = PERSON, 60
PLACES[5, 3:6], OBJECTS[5, 3:6] = HELMET, 255
A = "ADE/training/urban/train_station/ADE_train_00000001"


def seg(places: np.ndarray = PLACES, objects: np.ndarray = OBJECTS) -> np.ndarray:
    return np.stack([places // 256 * 10, places % 256, objects], -1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def put(root: Path, key: str) -> None:
    base = root / "images"
    save(base / f"{key}.jpg", np.full((*SIZE, 3), 90, np.uint8))
    save(base / f"{key}_seg.png", seg())
    save(base / f"{key}_parts_1.png", seg())
    save(base / f"{key}/instance_000_{Path(key).name}.png", np.zeros(SIZE, np.uint8))
    (base / f"{key}.json").write_text("{}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "ADE20K_2021_17_01"
    put(root, A)
    put(root, "ADE/validation/work_place/office/ADE_val_00000001")
    (root / "index_ade20k.pkl").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return root


def scan(root: Path) -> Scan:
    return ade20k_full.scan(Source(tree=Tree(str(root))))


def faults(root: Path) -> list[Fault]:
    found = scan(root)
    said = list(found.faults)
    for item in found.items:
        try:
            said += found.read(item).mended
        except FaultsError as error:
            said += error.found
    shown = {p.relative_to(root / "images").with_suffix("").as_posix() for p in root.rglob("images/**/*.jpg")}
    assert shown <= {i.id for i in found.items} | {f.item for f in said}
    assert not {i.id for i in found.items} & {f.item for f in found.faults}
    return said


def named(record: Record, found: Scan) -> np.ndarray:
    return np.array([*(c.name for c in found.classes), *[""] * (256 - len(found.classes))])[record.semantic]


def objects(record: Record, found: Scan) -> list[tuple[str, list[tuple[int, int]]]]:
    return [
        (found.classes[s.category].name, np.argwhere(rle.decode(s.counts, *SIZE)).tolist()) for s in record.segments
    ]


def pixels(places: int, numbers: int) -> list[tuple[int, int]]:
    return np.argwhere((places == PLACES) & (numbers == OBJECTS)).tolist()


def test_classes_and_objects(tmp_path, root):
    for place in (tmp_path, root):
        found = scan(place)
        assert list(found.faults) == []
        assert len(found.classes) == 254
        assert [(i.id, i.split) for i in found.items] == [
            (A, "train"), ("ADE/validation/work_place/office/ADE_val_00000001", "val"),
        ]  # fmt: skip
        names = {WALL: "wall", SKY: "sky", CAR: "car", PERSON: "person", HELMET: "", 0: ""}
        for item in found.items:
            record = found.read(item)
            np.testing.assert_array_equal(named(record, found), np.vectorize(names.get)(PLACES))
            assert (record.semantic == 255).sum() == np.isin(PLACES, [0, HELMET]).sum()
            assert objects(record, found) == [
                ("car", pixels(CAR, 60)), ("car", pixels(CAR, 90)), ("person", pixels(PERSON, 60)),
            ]  # fmt: skip
            assert {found.classes[k].name for k in found.labels(item)} == {"wall", "sky", "car", "person"}


def test_what_the_table_leaves_out_is_counted(root):
    said = "3 pixels of classes that the class table leaves out are ignored: places 1231 of the index"
    assert {(f.kind, f.outcome, f.reason) for f in faults(root)} == {("unlisted", "mended", said)}


def test_the_release_of_2016(tmp_path):
    put(tmp_path, "training/a/abbey/ADE_train_00000001")
    put(tmp_path, "validation/b/bow_window/indoor/ADE_val_00000001")
    assert [(i.id, i.split) for i in scan(tmp_path).items] == [
        ("training/a/abbey/ADE_train_00000001", "train"), ("validation/b/bow_window/indoor/ADE_val_00000001", "val"),
    ]  # fmt: skip


def test_own_classes(root):
    rows = [{"name": "helmet", "id": HELMET, "isthing": True}, {"name": "car", "id": CAR}]
    (root / "classes.yaml").write_text(yaml.safe_dump(rows))
    found = scan(root)
    record = found.read(found.items[0])
    np.testing.assert_array_equal(
        named(record, found), np.where(PLACES == CAR, "car", np.where(PLACES == HELMET, "helmet", ""))
    )
    assert objects(record, found) == [("helmet", pixels(HELMET, 255))]
    assert [f.reason.partition(" pixels")[0] for f in record.mended] == [
        str(np.isin(PLACES, [WALL, SKY, PERSON]).sum())
    ]
    (root / "classes.yaml").write_text("- {name: car, id: 401}\n- {name: car, id: 402}")
    assert [(f.kind, f.outcome) for f in scan(root).faults] == [("class-table", "stop")]


MASK = f"images/{A}_seg.png"
WRONG = {
    "no mask": (lambda r: (r / MASK).unlink(), "no-mask"),
    "no image": (lambda r: (r / f"images/{A}.jpg").unlink(), "no-image"),
    "ids": (lambda r: save(r / MASK, np.zeros((*SIZE, 3), np.uint8) + np.uint8(7)), "colour-mask"),
    "16 bits": (lambda r: save(r / MASK, np.zeros(SIZE, np.uint16)), "colour-mask"),
    "size": (lambda r: save(r / MASK, seg()[1:]), "size-mismatch"),
    "cut": (lambda r: (r / MASK).write_bytes((r / MASK).read_bytes()[:-20]), "truncated"),
    "image": (lambda r: (r / f"images/{A}.jpg").write_bytes(b""), "empty-file"),
}


@pytest.mark.parametrize(("damage", "kind"), WRONG.values(), ids=WRONG.keys())
def test_faults(root, damage, kind):
    damage(root)
    found = [(f.kind, f.outcome, f.item) for f in faults(root) if f.outcome != "mended"]
    assert found == [(kind, "quarantined", A)]


def test_other_layouts_are_refused(tmp_path):
    save(tmp_path / "a.png", seg())
    assert scan(tmp_path).faults[0].reason.startswith("there is no folder images/ADE/training or ")
    save(tmp_path / "images/training/a.jpg", seg())
    (fault,) = scan(tmp_path).faults
    assert (fault.kind, fault.outcome) == ("layout", "stop")
    assert fault.reason == "there are no *_seg.png below images/; the scene parsing benchmark is format ade20k"


@pytest.mark.parametrize("suffix", [".JPG", ".png"])
def test_no_image_is_passed_over_for_its_suffix(root, suffix):
    other = "ADE/training/urban/street/ADE_train_00000002"
    save(root / f"images/{other}{suffix}", np.full((*SIZE, 3), 90, np.uint8))
    assert [(f.kind, f.item) for f in scan(root).faults] == [("no-mask", other)]
    (root / f"images/{A}.jpg").rename(root / f"images/{A}{suffix}")
    assert [i.id for i in scan(root).items if i.id == A] == [A]
    save(root / f"images/{A}.bmp", np.full((*SIZE, 3), 90, np.uint8))
    assert {(f.kind, f.item) for f in scan(root).faults} == {("no-mask", other), ("name-clash", A)}
