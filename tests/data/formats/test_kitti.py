"""KITTI's semantics benchmark in its published layout, drawn by hand."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import rle
from pipelines.data.schema import IGNORE
from tests.data.formats.taking import accounted, photo, save, scan, take

# Sky; two cars that touch, cars that were not told apart, a building; road, a trailer, unlabelled.
LABELS = np.array([[23] * 7, [26, 26, 26, 26, 26, 11, 11], [7, 7, 7, 7, 30, 30, 0]], np.uint8)
NUMBERS = np.array([[0] * 7, [1, 1, 2, 2, 0, 1, 2], [0, 0, 0, 0, 1, 1, 0]], np.uint16)
NUMBERED = LABELS * np.uint16(256) + NUMBERS
EXPECTED = np.array([[10] * 7, [13, 13, 13, 13, 13, 2, 2], [0, 0, 0, 0, IGNORE, IGNORE, IGNORE]], np.uint8)
A, B = "training/000000_10", "training/000001_10"
SIZE = LABELS.shape


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("000000_10", "000001_10")):
        save(tmp_path / f"training/image_2/{name}.png", photo(seed, *SIZE))
        save(tmp_path / f"training/semantic/{name}.png", LABELS)
        save(tmp_path / f"training/semantic_rgb/{name}.png", photo(8, *SIZE))
        save(tmp_path / f"training/instance/{name}.png", NUMBERED)
        save(tmp_path / f"testing/image_2/{name}.png", photo(seed + 5, *SIZE))
    return tmp_path


def labelled(root: Path) -> Path:
    shutil.rmtree(root / "testing")
    return root


def test_labels_instances_and_what_was_not_told_apart(root):
    records, faults = take(labelled(root), "kitti")
    assert faults == []
    assert [r.id for r in records] == [A, B]
    for record in records:
        assert record.image == (root / f"training/image_2/{Path(record.id).name}.png").read_bytes()
        np.testing.assert_array_equal(record.semantic, EXPECTED)
        assert [(s.category, s.iscrowd, s.bbox) for s in record.segments] == [
            (13, True, (4, 1, 1, 1)),
            (13, False, (0, 1, 2, 1)),
            (13, False, (2, 1, 2, 1)),
        ]
        for segment, value in zip(record.segments, (6656, 6657, 6658), strict=True):
            np.testing.assert_array_equal(rle.decode(segment.counts, *SIZE), value == NUMBERED)


def test_there_is_no_published_split_and_no_group(root):
    found = scan(labelled(root), "kitti")
    assert [(i.split, i.group) for i in found.items] == [(None, ""), (None, "")]
    assert found.labels(found.items[0]) == {0, 2, 10, 13}


def test_images_without_published_labels_are_left_out_and_listed(root):
    save(root / "training/image_2/000001_11.png", photo(3, *SIZE))
    records, faults = take(root, "kitti")
    assert [r.id for r in records] == [A, B]
    assert {(f.kind, f.outcome) for f in faults} == {("unlabelled", "skipped")}
    assert [f.item for f in faults] == ["training/000001_11", "testing/000000_10", "testing/000001_10"]


def test_without_instance_maps_there_are_no_segments(root):
    shutil.rmtree(labelled(root) / "training/instance")
    records, faults = take(root, "kitti")
    assert faults == []
    assert [r.segments for r in records] == [(), ()]
    assert not any(c.isthing for c in scan(root, "kitti").classes)  # a thing without a segment would be void


def paint(folder: str, pixels: np.ndarray) -> Callable[[Path], object]:
    return lambda root: save(root / f"training/{folder}/000000_10.png", pixels)


def remove(folder: str) -> Callable[[Path], object]:
    return lambda root: (root / f"training/{folder}/000000_10.png").unlink()


def twice(root: Path) -> None:
    for folder in ("image_2", "semantic", "instance"):
        path = root / f"training/{folder}/000000_10.png"
        shutil.copy(path, path.with_name("CAR_10.png"))
        path.rename(path.with_name("car_10.png"))


def test_a_name_that_is_there_twice_has_the_image_s_id(root):
    twice(labelled(root))
    records, faults = take(root, "kitti")
    assert [r.id for r in records] == ["training/000001_10"]
    assert {(f.kind, f.item) for f in faults} == {("name-clash", "training/car_10"), ("name-clash", "training/CAR_10")}


FAULTS = {
    "no labels": (remove("semantic"), "no-mask", "image_2", "has no mask"),
    "no instances": (remove("instance"), "no-mask", "image_2", "has no instance map"),
    "no image": (remove("image_2"), "no-image", "semantic", "is the mask of no image"),
    "train ids": (paint("semantic", EXPECTED), "label-value", "semantic", "looks like trainIds"),
    "unknown": (paint("semantic", LABELS + np.uint8(11)), "label-value", "semantic", r"ids \{34, 37, 41\} outside 0"),
    "as Cityscapes": (
        paint("instance", np.where(NUMBERS > 0, LABELS * np.uint16(1000) + NUMBERS, LABELS)),
        "instance-label",
        "instance",
        r"values \{11001, 11002, 26001, 26002, 30001\} are of labels that are not in the class table",
    ),
    "colours": (paint("semantic", photo(8, *SIZE)), "colour-mask", "semantic", "colour mask needs colour map"),
    "size": (paint("image_2", photo(8, 3, 8)), "size-mismatch", "image_2", "mask 7x3, image 8x3"),
    "other": (paint("instance", NUMBERED.T), "size-mismatch", "instance", "instances 3x7, mask 7x3"),
}


@pytest.mark.parametrize(("damage", "kind", "folder", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_file_and_quarantines_its_image(root, damage, kind, folder, reason):
    damage(labelled(root))
    records, faults = take(root, "kitti")
    name = f"training/{folder}/000000_10.png"
    hits = [f for f in faults if (f.kind, f.file, f.item) == (kind, name, A) and re.search(reason, f.reason)]
    assert len(hits) == 1, faults
    assert hits[0].outcome == "quarantined"
    assert [r.id for r in records] == [B]
    assert accounted(records, faults) == {A, B}


@pytest.mark.parametrize("gone", ["image_2", "semantic"])
def test_another_layout_is_refused(root, gone):
    shutil.rmtree(root / "training" / gone)
    _, faults = take(root, "kitti")
    stops = [f.line for f in faults if f.outcome == "stop"]
    assert stops == [f"there must be training/{gone} in dataset.root, {root}"]
