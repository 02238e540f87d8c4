"""A folder of images and masks: what is in it comes out, what is wrong with it is said, all of it at once."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines.data import rle
from pipelines.data.formats import folder
from pipelines.data.formats.source import Scan, Source, split_of
from pipelines.data.schema import IGNORE, SPLITS, Record
from pipelines.errors import DataError

CLASSES = [{"name": "ground", "color": [9, 8, 7]}, {"name": "cell", "isthing": True}, {"name": "dot", "isthing": True}]
SIZE = (6, 8)
FRACTIONS = {"train": 0.5, "val": 0.25, "test": 0.25}


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


def scan(root: Path) -> Scan:
    return folder.scan(Source(root=root, splits=FRACTIONS, seed=0, shapes={}))


def read(root: Path) -> list[Record]:
    found = scan(root)
    assert list(found.faults) == []
    return [found.read(item) for item in found.items]


def faults(root: Path) -> list[str]:
    found = scan(root)
    said = list(found.faults)
    for item in found.items:
        try:
            found.read(item)
        except DataError as error:
            said += error.faults
    return said


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
    classes = scan(root).classes
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


def test_fractions_are_kept_and_a_split_depends_on_the_id_alone(tmp_path):
    splits = [split_of(f"img{i}", FRACTIONS) for i in range(4000)]
    shares = [splits.count(s) / 4000 for s in SPLITS]
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.03)
    assert splits == [split_of(f"img{i}", {k: 480 * v for k, v in FRACTIONS.items()}) for i in range(4000)]
    assert {split_of(f"img{i}", {"train": 1, "val": 0, "test": 1}) for i in range(99)} == {"train", "test"}
    assert {split_of(f"img{i}", {"train": 0, "val": 1, "test": 0}) for i in range(99)} == {"val"}


def test_without_published_splits_the_names_decide(root):
    for kind in ("images", "masks", "instances"):
        (root / kind / "train").rename(root / kind / "one")
        (root / kind / "val").rename(root / kind / "two")
    assert {r.id: r.split for r in read(root)} == {k: split_of(k, FRACTIONS) for k in ("one/a", "one/deep/b", "two/a")}


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


FAULTS = {
    "image without mask": (
        lambda r: (r / "masks/train/a.png").unlink(),
        r"images/train/a.png: has no masks/train/a",
    ),
    "mask without image": (
        lambda r: (r / "images/val/a.png").unlink(),
        r"masks/val/a.png: has no image images/val/a",
    ),
    "no id map": (lambda r: (r / "instances/val/a.png").unlink(), r"images/val/a.png: has no instances/val/a.png"),
    "same stem": (
        lambda r: save(r / "images/val/a.jpg", photo()),
        r"images/val/a.png: has the same name as .*jpg",
    ),
    "case": (case_clash, r"images/train/a.png: differs from images/train/A.png in case only"),
    "suffix": (lambda r: (r / "images/train/a.txt").touch(), r"images/train/a.txt: suffix not allowed .*\.png"),
    "no split": (
        lambda r: shutil.move(r / "images/val/a.png", r / "images/a.png"),
        r"images/a.png: in none of",
    ),
    "link out": (link_out, r"images/train/a.png: outside dataset root"),
    "linked folder": (link_folder, r"masks/more: a link to a folder is not followed"),
    "no file": (fifo, r"images/train/a.png: missing"),
    "name": (bad_name, r"udcff.png': the name must be printable UTF-8"),
    "truncated": (truncate("images/train/a.png"), r"images/train/a.png: (truncated|corrupt) PNG"),
    "broken mask": (truncate("masks/train/a.png"), r"masks/train/a.png: (truncated|corrupt) PNG"),
    "html": (lambda r: (r / "images/val/a.png").write_text("<html>"), r"images/val/a.png: not an allowed image"),
    "empty": (lambda r: (r / "images/val/a.png").write_bytes(b""), r"images/val/a.png: not an allowed image: 0 bytes"),
    "colours": (lambda r: save(r / "masks/val/a.png", photo()), r"masks/val/a.png: colour mask needs colour map"),
    "size": (edit_mask(lambda m: np.pad(m, ((0, 0), (0, 1)))), r"images/train/a.png: mask 9x6, image 8x6"),
    "transposed": (edit_mask(np.transpose), r"images/train/a.png: mask 6x8, image 8x6"),
    "undeclared": (edit_mask(put(21)), r"train/a.png: ids \{21\} outside 0\.\.2, ignore 255 \(1 pixels of 21\)$"),
    "from one": (edit_mask(lambda m: np.where(m == 255, 1, m + 1)), r"ids \{3\} .*; do the ids count from 1\?"),
    "16 bits": (edit_mask(lambda m: m.astype(np.uint16) + 256), r"ids \{256, 257, 258, 511\} outside 0\.\.2"),
    "only stuff": (
        edit_mask(lambda m: m * 0),
        r"instances/train/a.png: instance 2 lies on 'ground'",
    ),
    "only ignored": (
        edit_mask(lambda m: m * 0 + 255),
        r"instances/train/a.png: instance 2 lies on ignored",
    ),
    "id map's size": (edit_mask(np.transpose, "instances", 1), r"instances/train/a.png: instances 6x8, mask 8x6"),
}


@pytest.mark.timeout(20)  # a pipe that is opened blocks
@pytest.mark.parametrize(("damage", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_are_named_with_their_file(root, damage, message):
    damage(root)
    said = faults(root)
    with pytest.raises(DataError, match=f"(?m){message}"):
        raise DataError("all", said)


def test_all_faults_come_at_once(root):
    truncate("images/train/a.png")(root)
    truncate("masks/train/a.png")(root)  # both files of a pair
    save(root / "masks/train/deep/b.png", np.full(SIZE, 77, np.uint8))
    (root / "masks/val/a.png").unlink()
    said = "\n".join(faults(root))
    for name in ("images/train/a.png", "masks/train/a.png", "masks/train/deep/b.png", "images/val/a.png"):
        assert f"{name}: " in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: a, kind: stuff}", r"0\.kind: Extra inputs are not permitted"),
        ("- {name: a, isthing: 1}\n- {color: [1, 2, 3]}", r"(?s)0\.isthing: .*bool.*1\.name: Field required"),
        ("- {name: a, color: [1, 2, 256]}", r"0\.color\.2: .*less than or equal to 255"),
        ("- {name: a}\n- {name: a}", r"classes of the same name\n  - a"),
        ("{a: 1}", "list"),
        ("[]", "0 classes, allowed are 1 to 255"),
        (json.dumps([{"name": str(i)} for i in range(256)]), "256 classes, allowed are 1 to 255"),
        ("- !!python/object/apply:os.system [ls]", "cannot be read"),
        ("\xff", "not as expected"),
        ("[" * 100_000, "cannot be read"),
    ],
)
def test_a_wrong_class_table_is_refused(root, text, message):
    (root / "classes.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        scan(root)


def test_a_missing_class_table_says_how_to_write_it(root):
    (root / "classes.yaml").unlink()
    with pytest.raises(DataError, match=r"classes.yaml is missing\ndo: list the classes .* isthing: false"):
        scan(root)


def test_a_missing_root_is_named(tmp_path):
    with pytest.raises(DataError, match=r"dataset.root: .*nowhere is not a folder"):
        scan(tmp_path / "nowhere")
