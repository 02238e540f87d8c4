"""Cityscapes in its published layout, drawn by hand: what comes out of it, and what is said of what is wrong."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import panoptic, rle
from pipelines.data.classes import published
from pipelines.data.schema import IGNORE
from tests.data.formats.taking import accounted, photo, save, scan, take

TABLE = published("cityscapes")
NAMES = (
    "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky "
    "person rider car truck bus train motorcycle bicycle"
)
# Out of the region; sky; two cars that touch, a group of people, a building; road, a caravan, static.
LABELS = np.array(
    [[3] * 8, [23] * 8, [26, 26, 26, 26, 24, 24, 11, 11], [7, 7, 7, 7, 7, 29, 29, 4]],
    np.uint8,
)
NUMBERED = np.array(
    [[3] * 8, [23] * 8, [26000, 26000, 26001, 26001, 24, 24, 11, 11], [7, 7, 7, 7, 7, 29000, 29000, 4]],
    np.uint16,
)
EXPECTED = np.array(
    [[IGNORE] * 8, [10] * 8, [13, 13, 13, 13, 11, 11, 2, 2], [0, 0, 0, 0, 0, IGNORE, IGNORE, IGNORE]],
    np.uint8,
)
TRAIN_IDS = EXPECTED
A, B, C = (
    "train/aachen/aachen_000000_000019",
    "train/aachen/aachen_000001_000019",
    "val/bad-honnef/bad-honnef_000002_000004",
)


def image(root: Path, key: str, seed: int = 0) -> None:
    save(root / f"leftImg8bit/{key}_leftImg8bit.png", photo(seed, *LABELS.shape))


def annotate(root: Path, key: str, kind: str = "gtFine", labels: np.ndarray = LABELS) -> None:
    save(root / f"{kind}/{key}_{kind}_labelIds.png", labels)
    save(root / f"{kind}/{key}_{kind}_instanceIds.png", NUMBERED)
    save(root / f"{kind}/{key}_{kind}_color.png", photo(9, *LABELS.shape))
    (root / f"{kind}/{key}_{kind}_polygons.json").write_text("{}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, key in enumerate((A, B, C)):
        image(tmp_path, key, seed)
        annotate(tmp_path, key)
    (tmp_path / "README").write_text("as published")
    return tmp_path


def test_the_classes_are_the_nineteen_of_the_benchmark(root):
    classes = scan(root, "cityscapes").classes
    assert [c.name.replace(" ", "_") for c in classes] == NAMES.split()
    assert [c.name for c in classes if c.isthing] == [
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ]
    assert (classes[0].color, classes[13].color) == ((128, 64, 128), (0, 0, 142))


def test_labels_instances_and_groups(root):
    records, faults = take(root, "cityscapes")
    assert faults == []
    assert [(r.id, r.split) for r in records] == [(A, "train"), (B, "train"), (C, "val")]
    for record in records:
        assert record.image == (root / f"leftImg8bit/{record.id}_leftImg8bit.png").read_bytes()
        np.testing.assert_array_equal(record.semantic, EXPECTED)
        found = {(s.category, s.iscrowd, s.bbox, s.area) for s in record.segments}
        assert found == {(11, True, (4, 2, 2, 1), 2), (13, False, (0, 2, 2, 1), 2), (13, False, (2, 2, 2, 1), 2)}
        for segment in record.segments:
            x, y, w, h = segment.bbox
            mask = np.zeros(LABELS.shape, bool)
            mask[y : y + h, x : x + w] = True
            np.testing.assert_array_equal(rle.decode(segment.counts, *LABELS.shape), mask)
        truth = panoptic.truth(record, tuple(TABLE.things))
        assert (truth.ids == 0).sum() == (EXPECTED == IGNORE).sum()


def test_frames_of_a_sequence_are_a_group(root):
    groups = [item.group for item in scan(root, "cityscapes").items]
    assert groups == ["aachen_000000", "aachen_000001", "bad-honnef_000002"]


def test_an_item_names_every_file_that_it_is_read_from(root):
    """A change to any of them must have it read again."""
    item = scan(root, "cityscapes").items[0]
    assert item.files == (IMAGE, f"{FINE}_labelIds.png", f"{FINE}_instanceIds.png")


def test_the_classes_of_an_image_without_reading_it(root):
    found = scan(root, "cityscapes")
    assert found.labels(found.items[0]) == {0, 2, 10, 11, 13}


def test_the_extra_training_images_have_coarse_labels(root):
    extra = "train_extra/augsburg/augsburg_000000_000001"
    image(root, extra)
    annotate(root, extra, "gtCoarse")
    annotate(root, A, "gtCoarse", labels=np.zeros_like(LABELS))  # not read: the fine ones are there
    records, faults = take(root, "cityscapes")
    assert faults == []
    assert {r.id: r.split for r in records} == {A: "train", B: "train", C: "val", extra: "train"}
    assert all(np.array_equal(r.semantic, EXPECTED) for r in records)


def test_coarse_labels_of_images_that_were_not_fetched_are_not_missed(root):
    annotate(root, "train_extra/augsburg/augsburg_000000_000001", "gtCoarse")
    records, faults = take(root, "cityscapes")
    assert (len(records), faults) == (3, [])


def test_coarse_labels_alone(root):
    shutil.rmtree(root / "gtFine")
    for key in (A, B, C):
        annotate(root, key, "gtCoarse")
    records, faults = take(root, "cityscapes")
    assert (len(records), faults) == (3, [])


def test_without_instance_maps_there_are_no_segments(root):
    for path in root.rglob("*_instanceIds.png"):
        path.unlink()
    records, faults = take(root, "cityscapes")
    assert faults == []
    assert [r.segments for r in records] == [(), (), ()]
    assert not any(c.isthing for c in scan(root, "cityscapes").classes)  # a thing without a segment would be void


@pytest.mark.parametrize("split", ["test", "demoVideo"])
def test_images_without_usable_labels_are_left_out_and_listed(root, split):
    key = f"{split}/berlin/berlin_000000_000019"
    image(root, key)
    annotate(root, key, labels=np.zeros_like(LABELS))  # as published for test: nothing but void
    records, faults = take(root, "cityscapes")
    assert [r.id for r in records] == [A, B, C]
    assert [(f.kind, f.outcome, f.item) for f in faults] == [("unlabelled", "skipped", key)]
    assert f"{split} is published without labels: left out" in faults[0].line


def test_licence_plates_are_ignored_wherever_they_are_painted(root):
    """Their id is -1, which is 255 in eight bits."""
    labels, numbered = LABELS.copy(), NUMBERED.copy()
    labels[2, 0], numbered[2, 0] = IGNORE, IGNORE
    save(root / f"gtFine/{A}_gtFine_labelIds.png", labels)
    save(root / f"gtFine/{A}_gtFine_instanceIds.png", numbered)
    records, faults = take(root, "cityscapes")
    assert faults == []
    assert records[0].semantic[2, 0] == IGNORE
    assert [s.area for s in records[0].segments] == [2, 1, 2]


Damage = Callable[[Path], object]
FINE = f"gtFine/{A}_gtFine"
IMAGE = f"leftImg8bit/{A}_leftImg8bit.png"


def paint(what: str, pixels: np.ndarray) -> Damage:
    return lambda root: save(root / f"{FINE}_{what}.png", pixels)


def remove(name: str) -> Damage:
    return lambda root: (root / name).unlink()


def changed(pixels: np.ndarray, value: int) -> np.ndarray:
    copy = pixels.copy()
    copy[3, 0] = value
    return copy


def train_ids_alone(root: Path) -> None:
    (root / f"{FINE}_labelIds.png").rename(root / f"{FINE}_labelTrainIds.png")


def train_ids_everywhere(root: Path) -> None:
    for path in root.rglob("*_instanceIds.png"):
        path.unlink()
    paint("labelIds", TRAIN_IDS)(root)


def train_instances() -> np.ndarray:
    """As cityscapesScripts makes them with -t."""
    numbered = np.where(NUMBERED >= 1000, EXPECTED.astype(np.uint16) * 1000 + NUMBERED % 1000, EXPECTED)
    return np.where(EXPECTED == IGNORE, IGNORE, numbered).astype(np.uint16)


def misnamed(root: Path) -> None:
    (root / IMAGE).rename(root / f"leftImg8bit/{A}.png")


FAULTS: dict[str, tuple[Damage, str, str, str]] = {
    "no labelIds": (remove(f"{FINE}_labelIds.png"), "no-mask", IMAGE, "has no mask"),
    "no instanceIds": (remove(f"{FINE}_instanceIds.png"), "no-mask", IMAGE, "has no instance map"),
    "no image": (remove(IMAGE), "no-image", f"{FINE}_labelIds.png", "is the mask of no image"),
    "train ids alone": (train_ids_alone, "no-mask", IMAGE, "has labelTrainIds and no labelIds: put back the labelIds"),
    "train ids for ids": (
        paint("labelIds", TRAIN_IDS),
        "label-value",
        f"{FINE}_labelIds.png",
        r"ids \{0, 2, 10, 11, 13\} with 255 around them: looks like trainIds",
    ),
    "train ids and no instances": (
        train_ids_everywhere,
        "label-value",
        f"{FINE}_labelIds.png",
        "looks like trainIds; put back the label ids",
    ),
    "instances of train ids": (
        paint("instanceIds", train_instances()),
        "instance-label",
        f"{FINE}_instanceIds.png",
        "looks like trainIds: put back the label ids",
    ),
    "unknown label": (
        paint("labelIds", changed(LABELS, 34)),
        "label-value",
        f"{FINE}_labelIds.png",
        r"ids \{34\} outside 0\.\.33, ignore 255 \(1 pixels of 34\)",
    ),
    "unknown label of an instance": (
        paint("instanceIds", changed(NUMBERED, 60_000)),
        "instance-label",
        f"{FINE}_instanceIds.png",
        r"values \{60000\} are of labels that are not in the class table",
    ),
    "another label": (
        paint("instanceIds", changed(NUMBERED, 27_001)),
        "instance-label",
        f"{FINE}_instanceIds.png",
        "says another label than the mask of 1 pixels, as 'truck' for 'road'$",
    ),
    "colours": (
        paint("labelIds", photo(1, *LABELS.shape)),
        "colour-mask",
        f"{FINE}_labelIds.png",
        "colour mask needs colour map",
    ),
    "size": (paint("labelIds", LABELS[:, 1:]), "size-mismatch", f"{FINE}_instanceIds.png", "instances 8x4, mask 7x4"),
    "instances' size": (
        paint("instanceIds", NUMBERED.T),
        "size-mismatch",
        f"{FINE}_instanceIds.png",
        "instances 4x8, mask 8x4",
    ),
    "image's size": (lambda r: save(r / IMAGE, photo(0, 5, 8)), "size-mismatch", IMAGE, "mask 8x4, image 8x5"),
    "truncated": (
        lambda r: (r / IMAGE).write_bytes((r / IMAGE).read_bytes()[:-30]),
        "(truncated|corrupt)",
        IMAGE,
        "PNG",
    ),
    "name": (misnamed, "name", f"leftImg8bit/{A}.png", "is not called <city>_<sequence>_<frame>_leftImg8bit"),
    "case": (
        lambda r: shutil.copy(r / IMAGE, r / IMAGE.replace("19_left", "19_LEFT")),
        "name-clash",
        IMAGE,
        "in case only, which some disks cannot hold",
    ),
    "same id": (
        lambda r: shutil.copy(r / IMAGE, r / f"leftImg8bit/{A}.png"),
        "name-clash",
        IMAGE,
        f"has the same name as leftImg8bit/{A}.png",
    ),
    "no split": (
        lambda r: (r / "leftImg8bit/train").rename(r / "leftImg8bit/holidays"),
        "no-split",
        IMAGE.replace("train", "holidays"),
        "in none of the splits' folders, train, train_extra, val",
    ),
}


@pytest.mark.parametrize(("damage", "kind", "file", "reason"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_its_file_and_quarantines_its_image(root, damage, kind, file, reason):
    damage(root)
    records, faults = take(root, "cityscapes")
    hits = [f for f in faults if re.fullmatch(kind, f.kind) and f.file == file and re.search(reason, f.reason)]
    assert len(hits) == 1, faults
    assert hits[0].outcome == "quarantined"
    assert hits[0].item.partition("/")[2] == A.partition("/")[2]
    assert A not in {r.id for r in records}
    assert accounted(records, faults) >= {A, B, C}


def test_all_files_of_an_image_are_looked_at(root):
    for what in ("labelIds", "instanceIds"):
        (root / f"{FINE}_{what}.png").write_bytes(b"")
    (root / IMAGE).write_bytes(b"<html>")
    _, faults = take(root, "cityscapes")
    assert [(f.kind, f.item) for f in faults] == [("empty-file", A), ("not-an-image", A), ("empty-file", A)]


@pytest.mark.parametrize("gone", [["leftImg8bit"], ["gtFine"], ["leftImg8bit", "gtFine"]])
def test_another_layout_is_refused(root, gone):
    for folder in gone:
        shutil.rmtree(root / folder)
    _, faults = take(root, "cityscapes")
    stops = [f.line for f in faults if f.outcome == "stop"]
    assert stops == [f"there must be leftImg8bit/ and gtFine/ or gtCoarse/ in dataset.root, {root}"]
