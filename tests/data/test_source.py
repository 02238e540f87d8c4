"""What the formats share."""

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import ExifTags, Image

from pipelines.data import decode, rle
from pipelines.data.faults import Fault, Faults, FaultsError
from pipelines.data.formats import source
from pipelines.data.formats.source import Item, labelled, segment
from pipelines.data.schema import IGNORE, Record, Segment
from pipelines.data.tree import Tree
from pipelines.errors import DataError

MASK = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=7))


@given(arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=7), elements=st.integers(0, 4)))
def test_segments_are_those_of_the_whole_map(labels):
    found = {label: segment(labels, label, box, category=7) for label, box in labelled(labels)}
    assert set(found) == set(np.unique(labels).tolist()) - {0}
    for label, got in found.items():
        mask = labels == label
        np.testing.assert_array_equal(got.counts, rle.encode(mask))
        assert (got.area, got.bbox, got.category) == (mask.sum(), rle.bbox(mask), 7)


@given(MASK)
def test_the_segment_of_a_whole_mask(mask):
    found = source.segment_of(mask, category=3, iscrowd=True)
    if not mask.any():
        assert found is None
        return
    np.testing.assert_array_equal(found.counts, rle.encode(mask))
    assert (found.area, found.bbox, found.category, found.iscrowd) == (mask.sum(), rle.bbox(mask), 3, True)


@given(st.lists(st.tuples(MASK.map(lambda m: np.resize(m, (5, 6))), st.integers(1, 4), st.booleans()), max_size=5))
def test_painting_puts_the_smaller_in_front_and_groups_behind(drawn):
    """Against each pixel's own choice."""
    given_ = [(source.segment_of(m, category=c, iscrowd=g), m) for m, c, g in drawn if m.any()]
    semantic, front_first = source.paint([s for s, _ in given_], 5, 6, background=0)
    order = sorted((s.iscrowd, s.area, place) for place, (s, _) in enumerate(given_))
    assert [id(s) for s in front_first] == [id(given_[place][0]) for _, _, place in order]
    for y, x in np.ndindex(5, 6):
        covering = [given_[place][0].category for _, _, place in order if given_[place][1][y, x]]
        assert semantic[y, x] == (covering[0] if covering else 0)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train2017", "train"),
        ("training", "train"),
        ("gtFine_val", "val"),
        ("Validation", "val"),
        ("testing", "test"),
        ("image_info_test", "test"),
        ("trainval", None),  # two of them
        ("minival", None),  # no word of it
        ("oval", None),
        ("testis", None),
        ("train_val", None),
        ("val2017", "val"),
        ("test-dev2017", "test"),
        ("stage1_train", "train"),
        ("train.v2", "train"),
        ("examples", None),
        ("", None),
    ],
)
def test_the_split_that_a_name_means(name, split):
    assert source.split_named(name) == split


def test_the_classes_that_a_map_shows():
    assert source.present(np.array([[0, 3], [IGNORE, 3]], np.uint8)) == {0, 3}


def test_lists_of_splits_are_read_line_by_line(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("a\n deep/b \n\n")
    (tmp_path / "splits/test.txt").write_bytes("ü\r\n".encode())
    (tmp_path / "splits/other.txt").write_text("c")
    assert source.listed_splits(Tree(str(tmp_path))) == {"a": "train", "deep/b": "train", "ü": "test"}
    assert source.listed_splits(Tree(str(tmp_path / "splits"))) == {}


def test_lists_that_begin_with_a_mark_of_their_encoding(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/val.txt").write_bytes(b"\xef\xbb\xbffirst\nsecond\n")
    assert source.listed_splits(Tree(str(tmp_path))) == {"first": "val", "second": "val"}


def test_an_id_in_two_lists_is_in_neither_split(tmp_path):
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train.txt").write_text("a\nb\n")
    (tmp_path / "splits/test.txt").write_text("b\nc\n")
    with pytest.raises(
        DataError, match=r"(?s)splits/test\.txt: .*b \(in splits/train\.txt\)\ndo: leave each id in one"
    ):
        source.listed_splits(Tree(str(tmp_path)))


def test_images_are_found_by_their_keys(tmp_path):
    names = ("b/x.JPG", "b/x.png", "b/x.bmp", "a.tif", "A.bmp", "c.txt", "d.png")
    for name in (*(f"images/{n}" for n in names), "images2/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    faults = Faults()
    assert source.images_under(Tree(str(tmp_path)), "images", faults, start="s/") == {"s/d": "images/d.png"}
    assert [(f.kind, f.file, f.item, f.reason.partition(" (")[0]) for f in faults] == [
        ("suffix-unknown", "images/c.txt", "", "suffix not allowed"),
        ("name-clash", "images/A.bmp", "s/A", "differs from images/a.tif in case only, which some disks cannot hold"),
        ("name-clash", "images/a.tif", "s/a", "differs from images/A.bmp in case only, which some disks cannot hold"),
        ("name-clash", "images/b/x.JPG", "s/b/x", "has the same name as images/b/x.bmp"),
        ("name-clash", "images/b/x.bmp", "s/b/x", "has the same name as images/b/x.JPG"),
        ("name-clash", "images/b/x.png", "s/b/x", "has the same name as images/b/x.JPG"),
    ]
    assert source.clashing(faults) == {"s/A", "s/a", "s/b/x"}


def test_an_item_of_two_files_is_none(tmp_path):
    faults = Faults()
    named = [(f, Item(id=i, split=None, files=(n,))) for f, i, n in (
        ("1.json", "a", "a.png"), ("1.json", "b", "b.png"), ("2.json", "a", "a.jpg"), ("2.json", "B", "B.png"),
        ("2.json", "c", "c.png"),
    )]  # fmt: skip
    assert [item.id for item in source.once(named, faults)] == ["c"]
    assert [(f.file, f.item, f.reason) for f in faults] == [
        ("2.json", "a", "a.jpg is there twice, also as a.png in 1.json"),
        ("2.json", "B", "B.png is there twice, also as b.png in 1.json"),
        ("1.json", "b", "b.png is there twice, also as B.png in 2.json"),
    ]


def item() -> Item:
    return Item(id="a/b", split=None, files=("images/a/b.jpg",))


def picture(orientation: int = 1, **how) -> decode.Picture:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = io.BytesIO()
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).save(file, "PNG", exif=exif)
    return decode.image(file.getvalue(), **how)


def test_a_record_lists_what_was_changed():
    known = Fault("clipped", "labels.json", "said before", "a/b")
    parts: list[Segment] = []
    made: Record = source.record(item(), picture(6, suffix=".jpg"), np.zeros((6, 4), np.uint8), parts, [known])
    assert (made.id, made.split, made.format, made.height, made.width) == ("a/b", "train", "png", 6, 4)
    assert [(f.kind, f.file, f.item) for f in made.mended] == [
        ("exif-rotation", "images/a/b.jpg", "a/b"),
        ("suffix", "images/a/b.jpg", "a/b"),
        ("clipped", "labels.json", "a/b"),
    ]
    assert made.pixels is not None
    assert made.pixels.shape == (6, 4, 3)


def test_labels_of_another_size_are_the_image_s_fault():
    with pytest.raises(FaultsError) as caught:
        source.record(item(), picture(), np.zeros((5, 6), np.uint8))
    said = "mask 6x5, image 6x4"
    assert caught.value.found == (Fault("size-mismatch", "images/a/b.jpg", said, "a/b"),)


def test_an_item_needs_a_root_of_its_dataset():
    with pytest.raises(Exception, match=r"dataset.root: none is named\ndo: set dataset.root"):
        _ = source.Source(tree=None).folder


def test_the_name_of_an_item_is_its_image_s():
    assert item().name == "images/a/b.jpg"
    assert Item(id="x", split="val", files=()).name == "x"


def test_a_folder_is_a_tree(tmp_path: Path):
    tree = Tree(str(tmp_path))
    assert source.Source(tree=tree).folder is tree
