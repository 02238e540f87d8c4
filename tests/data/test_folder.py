"""A folder of images and masks: what is in it comes out, what is wrong with it is said, all of it at once."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.data import rle
from pipelines.data.schema import IGNORE, Record
from tests.data.formats.taking import accounted, scan, take

CLASSES = [{"name": "ground", "color": [9, 8, 7]}, {"name": "cell", "isthing": True}, {"name": "dot", "isthing": True}]
SIZE = (6, 8)


def save(path: Path, pixels: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def labels() -> tuple[np.ndarray, np.ndarray]:
    """Two cells that touch (one with a hole), a dot, a border that is ignored."""
    mask, ids = np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint16)
    mask[1:5, 1:5], ids[1:5, 1:3], ids[1:5, 3:5] = 1, 1000, 2
    mask[2, 2], ids[2, 2] = 0, 0
    mask[5, 7], ids[5, 7] = 2, 65535
    mask[0] = IGNORE
    return mask, ids


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A valid dataset with published splits and instances."""
    (tmp_path / "classes.yaml").write_text(yaml.safe_dump(CLASSES))
    mask, ids = labels()
    for k, name in enumerate(("train/a", "train/deep/b", "val/a")):
        save(tmp_path / f"images/{name}.png", photo(k))
        save(tmp_path / f"masks/{name}.png", mask)
        save(tmp_path / f"instances/{name}.png", ids)
    return tmp_path


def read(root: Path) -> list[Record]:
    records, faults = take(root, "folder")
    assert faults == []
    return records


def test_semantic_map_and_instances(root):
    records = read(root)
    mask, ids = labels()
    assert [(r.id, r.split) for r in records] == [("train/a", "train"), ("train/deep/b", "train"), ("val/a", "val")]
    for record in records:
        assert record.image == (root / f"images/{record.id}.png").read_bytes()
        np.testing.assert_array_equal(record.semantic, mask)
        assert [s.category for s in record.segments] == [1, 1, 2]
        assert not any(s.iscrowd for s in record.segments)
        for segment, identity in zip(record.segments, (2, 1000, 65535), strict=True):
            np.testing.assert_array_equal(rle.decode(segment.counts, *SIZE), ids == identity)
            assert segment.area == (ids == identity).sum()
        assert [s.bbox for s in record.segments] == [(3, 1, 2, 4), (1, 1, 2, 4), (7, 5, 1, 1)]


def test_without_instances_there_are_no_segments(root):
    shutil.rmtree(root / "instances")
    assert [r.segments for r in read(root)] == [(), (), ()]


@pytest.mark.parametrize(("name", "dump"), [("classes.yml", yaml.safe_dump), ("classes.json", json.dumps)])
def test_the_class_table(root, name, dump):
    (root / "classes.yaml").unlink()
    (root / name).write_text(dump(CLASSES))
    classes = scan(root, "folder").classes
    assert [(c.name, c.isthing) for c in classes] == [("ground", False), ("cell", True), ("dot", True)]
    assert classes[0].color == (9, 8, 7)
    assert len({c.color for c in classes}) == 3


def test_an_instance_has_the_class_of_most_of_its_pixels(root):
    mask, _ = labels()
    mask[1, 3:5] = 2  # 2 of 8 pixels
    mask[3:5, 3:5] = IGNORE  # which has no vote
    save(root / "masks/val/a.png", mask)
    assert [s.category for s in read(root)[-1].segments] == [1, 1, 2]


def test_published_splits_win_over_fractions_and_hidden_files_are_left_alone(root):
    (root / "images/.DS_Store").write_text("x")
    (root / "images/.cache").mkdir()
    (root / "images/.cache/thumb.png").write_text("x")
    assert [r.split for r in read(root)] == ["train", "train", "val"]


def test_without_published_splits_there_are_none(root):
    for kind in ("images", "masks", "instances"):
        (root / kind / "train").rename(root / kind / "one")
        (root / kind / "val").rename(root / kind / "two")
    found = scan(root, "folder")
    assert [(i.id, i.split) for i in found.items] == [("one/a", None), ("one/deep/b", None), ("two/a", None)]


def test_the_classes_of_an_image_without_reading_it(root):
    found = scan(root, "folder")
    (root / "images/train/a.png").unlink()
    assert found.labels(found.items[0]) == {0, 1, 2}


def test_an_item_names_every_file_that_it_is_read_from(root):
    """A change to any of them must have it read again."""
    assert scan(root, "folder").items[0].files == ("images/train/a.png", "masks/train/a.png", "instances/train/a.png")


OWN = [
    {"name": "ground", "color": [9, 8, 7], "id": 40},
    {"name": "cell", "color": [200, 0, 0], "id": 7, "isthing": True},
    {"name": "smear", "color": [1, 1, 1], "id": 9, "ignore": True},
    {"name": "dot", "color": [0, 200, 0], "id": 300, "isthing": True},
]


def test_ids_of_one_s_own_and_ignored_classes(root):
    (root / "classes.yaml").write_text(yaml.safe_dump(OWN))
    mask, _ = labels()
    own = np.array([40, 7, 300, *[0] * 252, 255], np.uint16)[mask]
    own[5, :3] = 9
    for name in ("train/a", "train/deep/b", "val/a"):
        save(root / f"masks/{name}.png", own)
    expected = mask.copy()
    expected[5, :3] = IGNORE
    for record in read(root):
        np.testing.assert_array_equal(record.semantic, expected)
        assert [s.category for s in record.segments] == [1, 1, 2]
    assert [c.name for c in scan(root, "folder").classes] == ["ground", "cell", "dot"]


@pytest.mark.parametrize("alpha", [False, True])
def test_masks_of_the_classes_colours(root, alpha):
    (root / "classes.yaml").write_text(yaml.safe_dump(OWN))
    mask, _ = labels()
    colours = np.array([[9, 8, 7], [200, 0, 0], [0, 200, 0], *[[1, 1, 1]] * 253], np.uint8)[mask]
    for name in ("train/a", "train/deep/b", "val/a"):
        save(root / f"masks/{name}.png", np.dstack([colours, mask]) if alpha else colours)
    for record in read(root):
        np.testing.assert_array_equal(record.semantic, mask)
        assert [s.category for s in record.segments] == [1, 1, 2]


def test_a_palette_holds_ids_and_not_colours(root):
    mask, _ = labels()
    image = Image.fromarray(mask)
    image.putpalette([v * 31 % 256 for v in range(768)])
    image.save(root / "masks/val/a.png")
    np.testing.assert_array_equal(read(root)[-1].semantic, mask)


def test_what_is_changed_is_listed_with_its_image(root):
    Image.fromarray(photo()[..., 0]).save(root / "images/val/a.png")
    (root / "images/train/a.png").rename(root / "images/train/a.jpg")
    found = {r.id: [(f.kind, f.file, f.outcome) for f in r.mended] for r in read(root)}
    assert found == {
        "train/a": [("suffix", "images/train/a.jpg", "mended")],
        "train/deep/b": [],
        "val/a": [("greyscale", "images/val/a.png", "mended")],
    }


def test_a_link_within_the_root_is_followed(root):
    target = root / "images/train/a.png"
    target.rename(root / "elsewhere.png")
    target.symlink_to(root / "elsewhere.png")
    assert read(root)[0].id == "train/a"


Damage = Callable[[Path], object]


def edit_mask(change: Callable[[np.ndarray], np.ndarray], kind: str = "masks", which: int = 0) -> Damage:
    return lambda root: save(root / f"{kind}/train/a.png", change(labels()[which].copy()))


def put(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(mask: np.ndarray) -> np.ndarray:
        mask[3, 3] = value
        return mask

    return change


def truncate(path: str) -> Damage:
    return lambda root: (root / path).write_bytes((root / path).read_bytes()[:-30])


def link_out(root: Path) -> None:
    outside = root.parent / "outside.png"
    save(outside, photo())
    (root / "images/train/a.png").unlink()
    (root / "images/train/a.png").symlink_to(outside)


def link_folder(root: Path) -> None:
    (root / "masks/more").symlink_to(root / "masks/train")


def case_clash(root: Path) -> None:
    for kind in ("images", "masks", "instances"):
        shutil.copy(root / kind / "train/a.png", root / kind / "train/A.png")


def fifo(root: Path) -> None:
    (root / "images/train/a.png").unlink()
    os.mkfifo(root / "images/train/a.png")


def bad_name(root: Path) -> None:
    shutil.copy(root / "images/train/a.png", os.fsencode(root / "images/train") + b"/\xff.png")


def no_split(root: Path) -> None:
    for kind in ("images", "masks", "instances"):
        shutil.move(root / kind / "val/a.png", root / kind / "a.png")


def colours_without_a_table(root: Path) -> None:
    table = [{k: v for k, v in entry.items() if k != "color"} for entry in CLASSES]
    (root / "classes.yaml").write_text(yaml.safe_dump(table))
    save(root / "masks/val/a.png", photo())


A, V = "train/a", "val/a"
FAULTS: dict[str, tuple[Damage, str, str, str, str]] = {  # kind, file, reason, image
    "image without mask": (
        lambda r: (r / "masks/train/a.png").unlink(),
        "no-mask",
        "images/train/a.png",
        r"has no masks/train/a",
        A,
    ),
    "mask without image": (
        lambda r: (r / "images/val/a.png").unlink(),
        "no-image",
        "masks/val/a.png",
        r"has no image images/val/a",
        V,
    ),
    "no id map": (
        lambda r: (r / "instances/val/a.png").unlink(),
        "no-mask",
        "images/val/a.png",
        r"has no instances/val/a.png",
        V,
    ),
    "same stem": (
        lambda r: save(r / "images/val/a.jpg", photo()),
        "name-clash",
        "images/val/a.png",
        r"has the same name as images/val/a.jpg",
        "val/a",
    ),
    "case": (
        case_clash,
        "name-clash",
        "images/train/a.png",
        r"differs from images/train/A.png in case only",
        A,
    ),
    "suffix": (
        lambda r: (r / "images/train/a.txt").touch(),
        "suffix-unknown",
        "images/train/a.txt",
        r"suffix not allowed .*\.png",
        "",
    ),
    "no split": (no_split, "no-split", "images/a.png", r"in none of the splits' folders, images/train, .*test", "a"),
    "link out": (link_out, "outside-root", "images/train/a.png", r"leads outside dataset root", ""),
    "linked folder": (link_folder, "layout", "masks/more", r"a link to a folder is not followed", ""),
    "no file": (fifo, "unreadable", "images/train/a.png", r"is neither a file nor a folder", ""),
    "name": (bad_name, "name", r"'images/train/\udcff.png'", r"the name must be UTF-8 without control characters", ""),
    "truncated": (truncate("images/train/a.png"), "truncated", "images/train/a.png", "truncated PNG", A),
    "broken mask": (truncate("masks/train/a.png"), "truncated", "masks/train/a.png", "truncated PNG", A),
    "html": (
        lambda r: (r / "images/val/a.png").write_text("<html>"),
        "not-an-image",
        "images/val/a.png",
        r"not an allowed image",
        V,
    ),
    "empty": (
        lambda r: (r / "images/val/a.png").write_bytes(b""),
        "empty-file",
        "images/val/a.png",
        r"not an allowed image: 0 bytes",
        V,
    ),
    "colours": (
        lambda r: save(r / "masks/val/a.png", photo()),
        "label-value",
        "masks/val/a.png",
        r"colours \[\d+, \d+, \d+\], .* and 38 more are not in the class table",
        V,
    ),
    "colours without a table": (
        colours_without_a_table,
        "colour-mask",
        "masks/val/a.png",
        r"colour mask needs colour map: give the classes their colours",
        V,
    ),
    "size": (
        edit_mask(lambda m: np.pad(m, ((0, 0), (0, 1)))),
        "size-mismatch",
        "images/train/a.png",
        r"mask 9x6, image 8x6",
        A,
    ),
    "transposed": (edit_mask(np.transpose), "size-mismatch", "images/train/a.png", r"mask 6x8, image 8x6", A),
    "undeclared": (
        edit_mask(put(21)),
        "label-value",
        "masks/train/a.png",
        r"ids \{21\} outside 0\.\.2, ignore 255 \(1 pixels of 21\)$",
        A,
    ),
    "from one": (
        edit_mask(lambda m: np.where(m == 255, 1, m + 1)),
        "label-value",
        "masks/train/a.png",
        r"ids \{3\} .*; do the ids count from 1\?",
        A,
    ),
    "16 bits": (
        edit_mask(lambda m: m.astype(np.uint16) + 256),
        "label-value",
        "masks/train/a.png",
        r"ids \{256, 257, 258, 511\} outside 0\.\.2",
        A,
    ),
    "only stuff": (
        edit_mask(lambda m: m * 0),
        "instance-label",
        "instances/train/a.png",
        r"instance 2 lies on 'ground', which is not a thing class",
        A,
    ),
    "only ignored": (
        edit_mask(lambda m: m * 0 + 255),
        "instance-label",
        "instances/train/a.png",
        r"instance 2 lies on ignored pixels alone",
        A,
    ),
    "id map's size": (
        edit_mask(np.transpose, "instances", 1),
        "size-mismatch",
        "instances/train/a.png",
        r"instances 6x8, mask 8x6",
        A,
    ),
}


@pytest.mark.timeout(20)  # a pipe that is opened blocks
@pytest.mark.parametrize(("damage", "kind", "file", "reason", "image"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named_with_their_file(root, damage, kind, file, reason, image):
    damage(root)
    records, faults = take(root, "folder")
    hits = [f for f in faults if (f.kind, f.file) == (kind, file) and re.search(reason, f.reason)]
    assert hits, faults
    assert {f.item for f in hits} == {image}
    shown = {p.relative_to(root / "images").with_suffix("").as_posix() for p in (root / "images").rglob("*.png")}
    shown -= {f.file.removeprefix("images/").rpartition(".")[0] for f in faults if not f.item}
    assert {i for i in shown if i.isprintable()} <= accounted(records, faults)


def test_all_faults_come_at_once(root):
    truncate("images/train/a.png")(root)
    truncate("masks/train/a.png")(root)  # both files of a pair
    save(root / "masks/train/deep/b.png", np.full(SIZE, 77, np.uint8))
    (root / "masks/val/a.png").unlink()
    _, faults = take(root, "folder")
    files = {f.file for f in faults}
    assert files == {"images/train/a.png", "masks/train/a.png", "masks/train/deep/b.png", "images/val/a.png"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, kind: stuff}", r"0\.kind: Extra inputs are not permitted"),
        ("- {name: a, isthing: 1}\n- {color: [1, 2, 3]}", r"(?s)0\.isthing: .*bool.*1\.name: Field required"),
        ("- {name: a, color: [1, 2, 256]}", r"0\.color\.2: .*less than or equal to 255"),
        ("- {name: a}\n- {name: a}", r"classes of the same name: a"),
        ("- {name: a, id: 1}\n- {name: b, id: 1}", r"classes of the same id: 1"),
        ("- {name: a, id: 1}\n- {name: b}", r"some classes have an id and some have none"),
        ("- {name: a, id: 65536}", r"0\.id: .*less than or equal to 65535"),
        ("- {name: a, ignore: true}", "0 classes, allowed are 1 to 255"),
        ("{a: 1}", "tuple"),
        ("[]", "0 classes, allowed are 1 to 255"),
        (json.dumps([{"name": str(i)} for i in range(256)]), "256 classes, allowed are 1 to 255"),
        ("- !!python/object/apply:os.system [ls]", "cannot be read"),
        ("\xff", "not as expected"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_wrong_class_table_is_refused(root, text, message):
    (root / "classes.yaml").write_text(text)
    stops = [f for f in take(root, "folder")[1] if f.outcome == "stop"]
    assert [(f.kind, f.file) for f in stops] == [("class-table", "classes.yaml")]
    assert re.search(message, stops[0].reason)


def test_a_missing_class_table_says_how_to_write_it_and_hides_no_other_fault(root):
    (root / "classes.yaml").unlink()
    (root / "images/val/a.png").write_bytes(b"")
    _, faults = take(root, "folder")
    assert [(f.kind, f.file) for f in faults] == [
        ("class-table", "classes.yaml"),
        ("empty-file", "images/val/a.png"),
    ]
    assert re.search("is missing: list the classes .* isthing: false", faults[0].reason)


def test_without_instances_all_classes_are_stuff(root):
    shutil.rmtree(root / "instances", ignore_errors=True)
    assert {c.isthing for c in scan(root, "folder").classes} == {False}
