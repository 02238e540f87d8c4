from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipelines.data import rle, shards
from pipelines.data.formats import shapes
from pipelines.data.schema import IGNORE, ClassInfo, Record, Segment
from pipelines.errors import DataError
from pipelines.validation import checks
from pipelines.validation.inspection import extent, inspect

CLASSES = (
    ClassInfo(name="sky", color=(80, 160, 220), isthing=False),
    ClassInfo(name="cat", color=(220, 120, 40), isthing=True),
)


def runs_of(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = rle.encode(mask).astype(np.int64)
    ends = np.cumsum(counts)[1::2]
    return ends - counts[1::2], ends


@pytest.mark.parametrize("seed", range(40))
def test_extent_is_the_box_of_the_decoded_mask(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros(rng.integers(1, 12, 2), bool)
    mask[rng.random(mask.shape) < rng.choice([0.02, 0.1, 0.5, 0.95])] = True
    assert extent(*runs_of(mask), mask.shape[0]) == rle.bbox(mask)


@pytest.mark.parametrize("mask", [np.ones((5, 3), bool), np.zeros((5, 3), bool), np.eye(4, dtype=bool)])
def test_extent_of_full_empty_and_diagonal_masks(mask):
    assert extent(*runs_of(mask), mask.shape[0]) == rle.bbox(mask)


def picture(height: int, width: int, seed: int = 0) -> bytes:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".png", image)[1].tobytes()


def segment(mask: np.ndarray, **fields) -> Segment:
    measured = {"category": 1, "bbox": rle.bbox(mask), "area": int(mask.sum()), "iscrowd": False}
    return Segment(**{**measured, "counts": rle.encode(mask), **fields})


def record(**fields) -> Record:
    """6 x 8, sky with a cat of 2 x 3 whose segment is whole."""
    cat = np.zeros((6, 8), bool)
    cat[1:3, 2:5] = True
    made = {"id": "a", "split": "train", "image": picture(6, 8), "format": "png", "height": 6, "width": 8}
    return Record(**{**made, "semantic": cat.astype(np.uint8), "segments": (segment(cat),), **fields})


def test_a_sound_record():
    found = inspect(record(), CLASSES)
    assert found.image == {
        "id": "a",
        "split": "train",
        "format": "png",
        "content_format": "png",
        "height": 6,
        "width": 8,
        "decodes": True,
        "size": "8x6",
        "decoded_size": "8x6",
        "labelled": 1.0,
        "classes": 2,
        "undeclared": None,
        "instances": 1,
        "overlap": 0.0,
        "uncovered": 0.0,
    }
    (row,) = found.segments
    assert [row["fills"], row["declared"], row["isthing"], row["agreement"]] == [True, True, True, 1.0]
    assert (row["area"], row["box"]) == (row["measured_area"], row["measured_box"]) == (6, "2 1 3 2")


def test_overlap_uncovered_and_agreement_are_measured_in_pixels():
    sky, cat = np.zeros((6, 8), bool), record().semantic == 1
    sky[1:3, 3:6] = True  # 4 of its 6 pixels are the cat's
    found = inspect(record(segments=(segment(cat), segment(sky))), CLASSES)
    assert found.image["overlap"] == 4 / 48
    assert found.image["uncovered"] == 0
    assert [s["agreement"] for s in found.segments] == [1.0, 4 / 6]
    assert inspect(record(segments=(segment(sky),)), CLASSES).image["uncovered"] == 2 / 48


def test_ignored_pixels_do_not_speak_against_a_segment():
    semantic = record().semantic.copy()
    semantic[1] = IGNORE
    found = inspect(record(semantic=semantic), CLASSES)
    assert found.segments[0]["agreement"] == 1.0
    assert found.image["labelled"] == 1 - 8 / 48


def test_undeclared_ids_are_named_and_ignore_is_none_of_them():
    semantic = record().semantic.copy()
    semantic[0, :3] = (7, 254, IGNORE)
    assert inspect(record(semantic=semantic), CLASSES).image["undeclared"] == "7 254"


@pytest.mark.parametrize("counts", [[47], [49], [2**32 - 1, 49], []])
def test_runs_that_do_not_fill_the_image_leave_the_claims_alone(counts):
    broken = replace(record().segments[0], counts=np.array(counts, np.uint32))
    (row,) = inspect(record(segments=(broken,)), CLASSES).segments
    assert not row["fills"]
    assert (row["area"], row["box"]) == (row["measured_area"], row["measured_box"])


@pytest.mark.parametrize("category", [-1, 2, 300])
def test_an_undeclared_category_is_no_crash(category):
    (row,) = inspect(record(segments=(replace(record().segments[0], category=category),)), CLASSES).segments
    assert not row["declared"]


@pytest.mark.parametrize("data", [b"", b"<html>", picture(6, 8)[:40]])
def test_what_does_not_decode_is_said_so(data):
    found = inspect(record(image=data), CLASSES)
    assert not found.image["decodes"]
    assert found.image["decoded_size"] == "8x6"


def test_tables_of_a_generated_dataset_agree_with_its_manifest(tmp_path, clean):
    plan = [("train", i) for i in range(9)] + [("val", 0), ("val", 1), ("test", 0)]
    records = [shapes.draw(s, i, seed=0, height=64, width=80, difficulty=0.5) for s, i in plan]
    write = {"classes": shapes.classes(), "name": "shapes", "format": "shapes", "out": tmp_path, "rows_per_shard": 4}
    manifest = shards.write(records, **write)
    told = []
    tables = checks.tabulate(tmp_path, clean, advance=told.append)

    assert told == list(range(1, 13))
    assert tables.images["id"].tolist() == [r.id for r in records]
    assert len(tables.segments) == sum(len(r.segments) for r in records)
    assert tables.splits["images"].tolist() == [9, 2, 1]
    assert tables.splits["instances"].tolist() == list(manifest.instances.values())
    train = tables.coverage[tables.coverage["split"] == "train"]
    assert tuple(train["pixels"]) == manifest.pixels_per_class
    assert tuple(train["instances"]) == manifest.instances_per_class
    assert tables.dataset["statistics_agree"].item()
    leaks = tables.images[["copy_of", "repeats", "reencoding_of", "resembles"]]
    assert leaks.isna().all(axis=None)


def test_chunks_do_not_change_the_tables(tmp_path, clean, monkeypatch):
    records = [record(id=f"{i}", image=picture(6, 8, i)) for i in range(7)]
    shards.write(records, classes=CLASSES, name="", format="", out=tmp_path, rows_per_shard=3)
    whole = checks.tabulate(tmp_path, clean)
    monkeypatch.setattr(checks, "CHUNK", 2)
    chunked = checks.tabulate(tmp_path, clean)
    for table in ("images", "segments", "coverage", "splits", "dataset"):
        assert getattr(whole, table).equals(getattr(chunked, table))
        assert getattr(whole, table).dtypes.equals(getattr(chunked, table).dtypes)


def test_threads_do_not_change_the_tables(dataset, clean):
    one, several = (checks.tabulate(dataset, clean, workers=n) for n in (1, 5))
    for table in ("images", "segments", "coverage", "splits", "dataset"):
        assert getattr(one, table).equals(getattr(several, table))
    assert (one.tally.shown == several.tally.shown).all()
    assert (one.tally.around == several.tally.around).all()


def test_few_images_wait_at_a_time():
    """Records are read as they are needed, however slow the reader of the tables is."""
    read = []

    def records():
        for i in range(60):
            read.append(i)
            yield record(id=str(i))

    found = checks._inspected(records(), CLASSES, 2)
    for done, inspection in enumerate(found):
        assert inspection.image["id"] == str(done)
        assert len(read) <= done + 2 * checks.AHEAD
    assert len(read) == 60


def test_a_damaged_shard_ends_the_pass(tmp_path, clean):
    records = [record(id=f"{i}", image=picture(6, 8, i)) for i in range(40)]
    shards.write(records, classes=CLASSES, name="", format="", out=tmp_path, rows_per_shard=20)
    shard = tmp_path / "shards/train-00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match="train-00001"):
        checks.tabulate(tmp_path, clean, workers=2)


def test_an_empty_dataset_has_tables_all_the_same(tmp_path, clean):
    shards.write([], classes=CLASSES, name="", format="", out=tmp_path, rows_per_shard=3)
    tables = checks.tabulate(tmp_path, clean)
    assert [len(tables.images), len(tables.segments), len(tables.coverage)] == [0, 0, 6]
    assert tables.splits["drift"].tolist() == [0, 0, 0]
    assert tables.coverage["pixels"].sum() == 0
