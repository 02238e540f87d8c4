"""Rows that need a source of their own."""

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data import classes
from tests.faults import matter
from tests.faults.line import records, refusal, run
from tests.faults.matter import HEIGHT, WIDTH, encoded, photo
from tests.faults.sources import CITY, folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder(tmp_path / "source", "folder", ["a", "b", "c"])
    return tmp_path / "source"


def test_d03_a_flipped_bit_is_found_where_the_source_brings_hashes(root, tmp_path):
    """And only there: most such JPEGs are whole images, of other pixels."""
    big = np.linspace(0, 255, 60 * 90 * 3).astype(np.uint8).reshape(60, 90, 3)
    name = root / "images/a.jpg"
    (root / "images/a.png").unlink()
    (root / "masks/a.png").write_bytes(encoded(np.zeros((60, 90), np.uint8)))
    sound = encoded(big, "JPEG")
    name.write_bytes(sound)
    sums = f"{hashlib.sha256(sound).hexdigest()}  ./images/a.jpg\n"
    clean = run(root, tmp_path / "clean")
    pixels, start = np.asarray(Image.open(io.BytesIO(sound))), sound.index(b"\xff\xda") + 20
    for bit in range(start * 8, len(sound) * 8, 41):  # the first whose image is whole, and another
        name.write_bytes(matter.flipped(sound, bit))
        done = run(root, tmp_path / f"out{bit}")
        if done.manifest and not np.array_equal(records(tmp_path / f"out{bit}")["a"][0], pixels):
            break
    assert done.report.source_hashes is False
    assert done.manifest.hash != clean.manifest.hash
    (root / "SHA256SUMS").write_text(sums)
    done = run(root, tmp_path / "hashed")
    assert "images/a.jpg: sha256 mismatch: not the file that SHA256SUMS lists" in refusal(done)
    assert [(f.kind, f.item) for f in done.report.faults] == [("source-hash", "a")]
    name.write_bytes(sound)
    mended = run(root, tmp_path / "mended")
    assert mended.report.source_hashes is True
    assert mended.manifest.hash == clean.manifest.hash


def test_d09_the_zero_label_is_ignored_once(root, tmp_path):
    """0 is none in the masks, and the classes are numbered from 1: the same through ingest, however often."""
    table = "- {id: 0, name: none, ignore: true}\n" + "".join(f"- {{id: {k}, name: c{k}}}\n" for k in range(1, 151))
    (root / "classes.yaml").write_text(table)
    mask = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH) + 43  # to 150
    mask[0, :4] = [0, 1, 0, 255]
    (root / "masks/a.png").write_bytes(encoded(mask))
    run(root, tmp_path / "out")
    want = np.where((mask == 0) | (mask == 255), 255, mask.astype(int) - 1)
    np.testing.assert_array_equal(records(tmp_path / "out")["a"][1], want)
    # What ingest says of a pixel, put back as a mask, is not what the table says of masks: 151 has to be seen.
    (root / "classes.yaml").write_text(table.replace("- {id: 0, name: none, ignore: true}\n", ""))
    assert "ids {0} outside 1..150, ignore 255" in refusal(run(root, tmp_path / "twice"))


def test_d09_ade20k_s_zero_label_is_ignored_once(tmp_path):
    """And a mask that has been through it already is refused, not read one class too low."""
    base = tmp_path / "source/ADEChallengeData2016"
    mask = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    for key, published in {"a": mask, "b": (mask - 1).astype(np.uint8)}.items():
        for name, data in {
            f"images/training/{key}.jpg": encoded(photo(0), "JPEG"),
            f"annotations/training/{key}.png": encoded(published),
        }.items():
            (base / name).parent.mkdir(parents=True, exist_ok=True)
            (base / name).write_bytes(data)
    done = run(base.parent, tmp_path / "out", format="ade20k", max_rejected=0.5)
    assert [(f.kind, f.item) for f in done.report.faults] == [("label-value", "training/b")]
    want = mask.astype(int) - 1
    want[0, 0] = 255
    np.testing.assert_array_equal(records(tmp_path / "out")["training/a"][1], want)


def test_d08_classes_that_a_table_leaves_out_are_ignored_and_counted(tmp_path):
    """The full ADE20K: the place of a class stands in red and green."""
    base = tmp_path / "source/images/ADE/training/indoor"
    base.mkdir(parents=True)
    (base.parents[3] / "classes.yaml").write_text("- {id: 1, name: one}\n- {id: 2, name: two}\n")
    places = np.full((HEIGHT, WIDTH), 1, np.uint8)
    places[0] = [2, 3] * 6
    (base / "a.jpg").write_bytes(encoded(photo(0), "JPEG"))
    (base / "a_seg.png").write_bytes(encoded(np.stack([0 * places, places, 0 * places], -1)))
    done = run(tmp_path / "source", tmp_path / "out", format="ade20k-full")
    (fault,) = done.report.faults
    assert (fault.kind, fault.outcome) == ("unlisted", "mended")
    assert fault.reason.startswith("6 pixels of classes that the class table leaves out are ignored: places 3 of")
    (semantic,) = (semantic for _, semantic, _ in records(tmp_path / "out").values())
    np.testing.assert_array_equal(semantic, np.array([255, 0, 1, 255])[places])


def test_d10_label_ids_and_train_ids(sound, tmp_path):
    source = sound("cityscapes")
    root = source.root
    key = CITY.format(0)
    path = root / f"gtFine/train/aachen/{key}_gtFine_labelIds.png"
    labels = np.asarray(Image.open(path))
    converted = np.where(labels == 7, 0, np.where(photo(1)[..., 1] & 1, 13, 255)).astype(np.uint8)
    with source.spoilt():
        path.write_bytes(encoded(converted))
        done = run(root, tmp_path / "out", format="cityscapes", stratify=False)
    assert "looks like trainIds; put back the label ids, as published" in refusal(done)
    assert [f.kind for f in done.report.faults] == ["label-value"]
    other = tmp_path / "folder"
    folder(other, "folder", ["a", "b", "c"])
    entries = [f"- {{name: {c.name}}}\n" for c in classes.published("cityscapes").classes]
    (other / "classes.yaml").write_text("".join(entries))
    (other / "masks/a.png").write_bytes(encoded(labels))
    said = refusal(run(other, tmp_path / "labels"))
    assert "looks like labelIds of Cityscapes: give the classes these ids, or set dataset.format: cityscapes" in said


def test_d13_the_declared_depth_decides_what_is_kept(root, tmp_path):
    """12 significant bits, as many microscopes give them."""
    pixels = np.random.default_rng(0).integers(0, 1 << 12, (HEIGHT, WIDTH), np.uint16)
    (root / "images/a.png").write_bytes(encoded(pixels))
    for depth in (16, 12):
        done = run(root, tmp_path / str(depth), depth=depth)
        found = records(tmp_path / str(depth))["a"][0]
        np.testing.assert_array_equal(found, np.repeat((pixels >> (depth - 8)).astype(np.uint8)[..., None], 3, 2))
        (fault,) = done.report.faults
        assert ("dataset.depth 12 would keep more" in fault.reason) == (depth == 16)


def test_d15_no_split_where_the_others_have_one(sound, tmp_path):
    with sound("folder").spoilt() as root:
        for kind in ("images", "masks"):
            (root / f"{kind}/train").mkdir()
            (root / f"{kind}/a.png").rename(root / f"{kind}/train/a.png")
        done = run(root, tmp_path / "out", max_rejected=0.7)
    assert [(f.kind, f.item) for f in done.report.faults] == [("no-split", "b"), ("no-split", "c")]
    assert done.manifest.images == {"train": 1, "val": 0, "test": 0}


def test_d15_unlabelled_images_are_told_and_cost_nothing(sound, tmp_path):
    source = sound("cityscapes")
    with source.spoilt() as root:
        (root / "leftImg8bit/test/berlin").mkdir(parents=True)
        name = "leftImg8bit/test/berlin/berlin_000000_000019_leftImg8bit.png"
        (root / name).write_bytes(encoded(photo(9)))
        done = run(root, tmp_path / "out", format="cityscapes", stratify=False)
    assert [(f.kind, f.file) for f in done.report.faults] == [("unlabelled", name)]
    assert done.manifest.hash == source.hash
