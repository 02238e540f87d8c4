"""Mapillary Vistas in its published layouts, drawn by hand."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.data import rle
from pipelines.data.schema import IGNORE
from tests.data.formats.taking import accounted, photo, save, scan, take


def label(name: str, readable: str, instances: bool, evaluate: bool, color: list[int]) -> dict[str, Any]:
    return {"name": name, "readable": readable, "instances": instances, "evaluate": evaluate, "color": color}


# What is not evaluated stands in the midst, as in version 2.0.
LABELS = [
    label("animal--bird", "Bird", True, True, [165, 42, 42]),
    label("construction--barrier--ambiguous", "Ambiguous Barrier", False, False, [250, 170, 31]),
    label("construction--flat--road", "Road", False, True, [128, 64, 128]),
    label("object--vehicle--car", "Car", True, True, [0, 0, 142]),
    label("object--sign--ambiguous", "Signage - Ambiguous", True, False, [250, 172, 30]),
    label("void--unlabeled", "Unlabeled", False, False, [0, 0, 0]),
]
MASK = np.array([[5, 5, 0, 0, 0, 1], [3, 3, 3, 3, 4, 4], [2, 2, 2, 2, 2, 2]], np.uint8)
# Numbers begin at 0, for objects too.
NUMBERS = np.array([[0, 0, 0, 0, 1, 0], [0, 0, 255, 255, 0, 1], [0, 0, 0, 0, 0, 0]], np.uint16)
NUMBERED = MASK * np.uint16(256) + NUMBERS
EXPECTED = np.array(
    [[IGNORE, IGNORE, 0, 0, 0, IGNORE], [2, 2, 2, 2, IGNORE, IGNORE], [1, 1, 1, 1, 1, 1]],
    np.uint8,
)
SEGMENTS = [(0, 0), (0, 1), (2, 768), (2, 1023)]  # class, value
A, B, C = "training/_-AbC0", "training/b", "validation/c"
SIZE = MASK.shape


def annotate(root: Path, key: str, version: str) -> None:
    split, name = key.split("/")
    palette = Image.fromarray(MASK)
    palette.putpalette([c for entry in LABELS for c in entry["color"]])
    (root / split / version / "labels").mkdir(parents=True, exist_ok=True)
    palette.save(root / split / version / f"labels/{name}.png")
    save(root / split / version / f"instances/{name}.png", NUMBERED)
    save(root / split / version / f"panoptic/{name}.png", photo(7, *SIZE))


def write(root: Path, name: str, labels: list[dict[str, Any]] = LABELS) -> None:
    content = {"version": "2.0", "mapping": "public", "folder_structure": "{split}/{content}/", "labels": labels}
    (root / name).write_text(json.dumps(content))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, key in enumerate((A, B, C)):
        split, name = key.split("/")
        folder = tmp_path / split / "images"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(seed, *SIZE)).save(folder / f"{name}.jpg")
        annotate(tmp_path, key, "v2.0")
    write(tmp_path, "config_v2.0.json")
    return tmp_path


def test_the_classes_are_those_that_are_evaluated(root):
    classes = scan(root, "mapillary-vistas").classes
    assert [(c.name, c.isthing, c.color) for c in classes] == [
        ("Bird", True, (165, 42, 42)),
        ("Road", False, (128, 64, 128)),
        ("Car", True, (0, 0, 142)),
    ]


def test_readable_names_that_are_the_same_give_way_to_whole_ones(root):
    labels = copy.deepcopy(LABELS)
    labels[3]["readable"] = "Bird"
    write(root, "config_v2.0.json", labels)
    names = [c.name for c in scan(root, "mapillary-vistas").classes]
    assert names == ["animal--bird", "construction--flat--road", "object--vehicle--car"]


def check(root: Path) -> None:
    records, faults = take(root, "mapillary-vistas")
    assert faults == []
    assert [(r.id, r.split) for r in records] == [(A, "train"), (B, "train"), (C, "val")]
    for record in records:
        assert record.image == (root / record.id.replace("/", "/images/")).with_suffix(".jpg").read_bytes()
        np.testing.assert_array_equal(record.semantic, EXPECTED)
        assert [(s.category, s.iscrowd) for s in record.segments] == [(category, False) for category, _ in SEGMENTS]
        for segment, (_, value) in zip(record.segments, SEGMENTS, strict=True):
            np.testing.assert_array_equal(rle.decode(segment.counts, *SIZE), value == NUMBERED)


def test_version_2(root):
    check(root)


def test_version_2_is_read_where_both_are_there(root):
    write(root, "config_v1.2.json", LABELS[:1])
    for key in (A, B, C):
        annotate(root, key, "v1.2")
        save(root / f"{key.replace('/', '/v1.2/labels/')}.png", MASK * 0)
    check(root)


@pytest.mark.parametrize(
    ("folder", "config"),
    [("v1.2", "config_v1.2.json"), ("v1.2", "config.json"), (".", "config.json"), (".", "config_v1.2.json")],
)
def test_older_versions(root, folder, config):
    (root / "config_v2.0.json").rename(root / config)
    for split in ("training", "validation"):
        for path in (root / split / "v2.0").iterdir():
            (root / split / folder).mkdir(exist_ok=True)
            path.rename(root / split / folder / path.name)
        (root / split / "v2.0").rmdir()
    check(root)


def test_the_test_split_has_no_labels_and_is_left_out(root):
    save(root / "testing/images/d.jpg", photo(5, *SIZE))
    records, faults = take(root, "mapillary-vistas")
    assert [r.id for r in records] == [A, B, C]
    assert [(f.kind, f.outcome, f.item) for f in faults] == [("unlabelled", "skipped", "testing/d")]


def test_without_instance_maps_there_are_no_segments(root):
    for split in ("training", "validation"):
        shutil.rmtree(root / split / "v2.0/instances")
    records, faults = take(root, "mapillary-vistas")
    assert faults == []
    assert [r.segments for r in records] == [(), (), ()]
    assert not any(c.isthing for c in scan(root, "mapillary-vistas").classes)  # a thing without a segment would be void


def paint(folder: str, pixels: np.ndarray) -> Callable[[Path], object]:
    return lambda root: save(root / f"training/v2.0/{folder}/b.png", pixels)


def remove(name: str) -> Callable[[Path], object]:
    return lambda root: (root / "training" / name).unlink()


FAULTS = {
    "no labels": (remove("v2.0/labels/b.png"), "no-mask", "images/b.jpg", "has no mask"),
    "no instances": (remove("v2.0/instances/b.png"), "no-mask", "images/b.jpg", "has no instance map"),
    "no image": (remove("images/b.jpg"), "no-image", "v2.0/labels/b.png", "is the mask of no image"),
    "unknown": (
        paint("labels", MASK + np.uint8(1)),
        "label-value",
        "v2.0/labels/b.png",
        r"ids \{6\} outside 0\.\.5, ignore 255 \(2 pixels of 6\)",
    ),
    "class ids": (paint("labels", EXPECTED), "label-value", "v2.0/labels/b.png", "looks like trainIds"),
    "another label": (
        paint("instances", np.where(NUMBERED == 768, 3, NUMBERED).astype(np.uint16)),
        "instance-label",
        "v2.0/instances/b.png",
        "says another label than the mask of 2 pixels, as 'Bird' for 'Car'$",
    ),
    "size": (paint("labels", MASK[:2]), "size-mismatch", "v2.0/instances/b.png", "instances 6x3, mask 6x2"),
    "colours": (paint("labels", photo(1, *SIZE)), "colour-mask", "v2.0/labels/b.png", "colour mask needs colour map"),
}


@pytest.mark.parametrize(("damage", "kind", "file", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_file_and_quarantines_its_image(root, damage, kind, file, reason):
    damage(root)
    records, faults = take(root, "mapillary-vistas")
    where = (kind, f"training/{file}", B)
    hits = [f for f in faults if (f.kind, f.file, f.item) == where and re.search(reason, f.reason)]
    assert len(hits) == 1, faults
    assert hits[0].outcome == "quarantined"
    assert [r.id for r in records] == [A, C]
    assert accounted(records, faults) == {A, B, C}


def entry(change: dict[str, Any]) -> str:
    return json.dumps({"labels": [{**LABELS[0], **change}]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[" * 100_000, "recursion limit"),
        ("[]", "should be"),
        ("{}", "labels: Field required"),
        ('{"labels": []}', "0 classes, allowed are 1 to 255"),
        (entry({"instances": 1}), r"labels\.0\.instances: .*valid boolean"),
        (entry({"color": [0, 0, 256]}), r"labels\.0\.color\.2: .*less than or equal to 255"),
        (entry({"evaluate": False}), "0 classes, allowed are 1 to 255"),
        (json.dumps({"labels": [{k: v for k, v in LABELS[0].items() if k != "evaluate"}]}), "evaluate: Field required"),
        (json.dumps({"labels": [LABELS[0], LABELS[0]]}), "classes of the same name: animal--bird"),
    ],
)
def test_a_wrong_configuration_stops_the_line(root, text, reason):
    (root / "config_v2.0.json").write_text(text)
    _, faults = take(root, "mapillary-vistas")
    stops = [f for f in faults if f.outcome == "stop"]
    assert [(f.kind, f.file) for f in stops] == [("class-table", "config_v2.0.json")]
    assert re.search(reason, stops[0].reason)


def test_a_missing_configuration_stops_the_line_and_hides_no_other_fault(root):
    (root / "config_v2.0.json").unlink()
    (root / "training/images/b.jpg").write_bytes(b"")
    _, faults = take(root, "mapillary-vistas")
    assert {(f.kind, f.file) for f in faults} == {
        ("class-table", "config_v2.0.json"),
        ("empty-file", "training/images/b.jpg"),
    }


def test_another_layout_is_refused(root):
    for split in ("training", "validation"):
        shutil.rmtree(root / split / "v2.0")
    _, faults = take(root, "mapillary-vistas")
    stops = {f.line for f in faults if f.outcome == "stop"}
    assert any(
        f"there must be training/images/ and training/v2.0/labels/ (or v1.2) in dataset.root, {root}" in s
        for s in stops
    )
