"""COCO's detection format, written and read again, and read by COCO's own tools."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from pipelines.data import rle
from pipelines.data.exports.coco import write
from pipelines.data.formats import shapes
from pipelines.data.schema import ClassInfo, Record, Segment
from pipelines.errors import DataError
from tests.data.formats.taking import photo, take

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools's
CLASSES = shapes.classes()
THINGS = [k for k, c in enumerate(CLASSES) if c.isthing]


@pytest.fixture(scope="module")
def scenes() -> list[Record]:
    """Drawn scenes, with crowds and objects of several parts, and one whose objects overlap and have holes."""
    plan = shapes.plan(splits={"train": 6, "val": 2, "test": 1})
    drawn = [shapes.draw(*item, seed=3, height=64, width=80, difficulty=1.0) for item in plan]
    ring = np.zeros((64, 80), bool)
    ring[10:40, 10:40], ring[20:30, 20:30] = True, False
    inside = np.zeros((64, 80), bool)
    inside[15:60, 15:60] = True
    inside[0, 0] = inside[63, 79] = True
    segments = tuple(
        Segment(category=THINGS[1], bbox=rle.bbox(m), area=int(m.sum()), iscrowd=False, counts=rle.encode(m))
        for m in (ring, inside)
    )
    return [*drawn, replace(drawn[0], id="train/sub/overlapping", segments=segments)]


def objects(record: Record, places: dict[int, int]) -> set[tuple[int, bool, int, tuple[int, ...], bytes]]:
    return {(places[s.category], s.iscrowd, s.area, s.bbox, s.counts.tobytes()) for s in record.segments}


def test_what_is_written_reads_the_same(scenes, tmp_path):
    assert any(s.iscrowd for r in scenes for s in r.segments)
    write(scenes, CLASSES, tmp_path / "out")
    records, faults = take(tmp_path / "out", "coco")
    assert faults == []
    read = {record.id: record for record in records}
    assert read.keys() == {record.id for record in scenes}
    same = {k: k for k in range(len(CLASSES))}
    places = {k: number for number, k in enumerate(THINGS, start=1)}
    for record in scenes:
        again = read[record.id]
        assert again.split == record.split
        assert again.image == record.image
        assert objects(again, same) == objects(record, places)
        assert len(again.segments) == len(record.segments)


def test_coco_s_own_tools_read_it(scenes, tmp_path, capsys):
    write(scenes, CLASSES, tmp_path / "out")
    published = COCO(tmp_path / "out/annotations/instances_train.json")
    names = {k: c["name"] for k, c in published.cats.items()}
    assert list(names.values()) == [CLASSES[k].name for k in THINGS]
    for number, image in published.imgs.items():
        record = next(r for r in scenes if r.id == f"train/{Path(image['file_name']).with_suffix('')}")
        found = published.loadAnns(published.getAnnIds(number))
        assert len(found) == len(record.segments)
        for annotation, segment in zip(found, record.segments, strict=True):
            np.testing.assert_array_equal(published.annToMask(annotation), rle.decode(segment.counts, 64, 80))
            assert names[annotation["category_id"]] == CLASSES[segment.category].name
            assert annotation["iscrowd"] == segment.iscrowd


def test_ids_without_their_split_and_other_images(scenes, tmp_path):
    pixels = photo(0, 64, 80)
    made = [
        replace(scenes[0], id="a/b", image=pixels.tobytes(), format="raw", segments=()),
        replace(scenes[0], id="c", split="val"),
    ]
    write(made, CLASSES, tmp_path / "out")
    records, _ = take(tmp_path / "out", "coco")
    assert [(r.id, r.split) for r in records] == [("train/a/b", "train"), ("val/c", "val")]
    np.testing.assert_array_equal(records[0].pixels, pixels)
    assert records[1].image == scenes[0].image


BAD = {
    "twice": (["train/a", "a"], "a: the id is there twice"),
    "case": (["a", "A"], "A: the id is there twice, or differs from another in case only"),
    "climbs": (["../a"], "'../a': the id is no path below a folder"),
    "absolute": (["/a"], "the id is no path below a folder"),
    "hidden": (["x/.a"], "or hidden"),
}


@pytest.mark.parametrize(("ids", "message"), BAD.values(), ids=BAD)
def test_ids_that_cannot_be_files(scenes, tmp_path, ids, message):
    with pytest.raises(DataError, match=message):
        write([replace(scenes[0], id=i) for i in ids], CLASSES, tmp_path / "out")
    assert not list(tmp_path.rglob("*.json"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_what_could_not_be_read_again_is_refused(scenes, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="is not empty"):
        write(scenes, CLASSES, tmp_path)
    with pytest.raises(DataError, match="class 0 has this name"):
        write([], [ClassInfo(name="background", color=(0, 0, 0), isthing=True)], tmp_path / "out")


def test_numbers_are_whole_in_the_file(scenes, tmp_path):
    write(scenes, CLASSES, tmp_path / "out")
    published = json.loads((tmp_path / "out/annotations/instances_val.json").read_text())
    assert [image["id"] for image in published["images"]] == [1, 2]
    assert len({a["id"] for a in published["annotations"]}) == len(published["annotations"])
