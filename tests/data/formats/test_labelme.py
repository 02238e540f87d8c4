"""labelme's files: a tiny folder as it saves them, whose pixels are given by hand."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.data import rle
from pipelines.data.formats import labelme
from pipelines.data.schema import IGNORE, Record
from tests.data.formats.taking import accounted, photo, save, scan, take

HEIGHT, WIDTH = 8, 10


def png(pixels: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def shape(label: str, points: Any, shape_type: str | None = "polygon", **more: Any) -> dict[str, Any]:
    fixed = {"label": label, "points": points, "shape_type": shape_type, "group_id": None, "flags": {}}
    return {**fixed, "description": "", **more}


def box(label: str, x: float, y: float, width: float, height: float, **more: Any) -> dict[str, Any]:
    return shape(label, [[x, y], [x + width, y + height]], "rectangle", **more)


def content(path: str, *shapes: dict[str, Any], **more: Any) -> dict[str, Any]:
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    return {"version": "5.4.1", "flags": {"x": True}, "shapes": list(shapes), "imagePath": path, "imageData": None} | {
        **size,
        **more,
    }


def write(path: Path, published: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(published, indent=2))


def area(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + height, x : x + width] = True
    return mask


L = np.array([[1, 0, 0], [1, 1, 1]], np.uint8) * 255


@pytest.fixture
def root(tmp_path: Path) -> Path:
    save(tmp_path / "a.png", photo(0, HEIGHT, WIDTH))
    save(tmp_path / "images/b.png", photo(1, HEIGHT, WIDTH))
    triangle = shape("dog", [[0, 4], [4, 4], [4, 8], [0, 8]], None)
    mask = shape("cat", [[7, 1], [9, 2]], "mask", mask=png(L))
    write(tmp_path / "a.json", content("a.png", box("cat", 1, 0, 4, 3), triangle, mask))
    write(tmp_path / "labels/b.json", content("..\\images\\b.png", box("cat", 8, 6, -3, -2)))
    write(tmp_path / "c.json", content("gone/c.jpg", box("dog", 2, 2, 2, 2), imageData=png(photo(2, HEIGHT, WIDTH))))
    return tmp_path


def read(root: Path) -> dict[str, Record]:
    records, faults = take(root, "labelme")
    assert faults == []
    return {record.id: record for record in records}


def masks(record: Record) -> list[tuple[int, list[list[bool]]]]:
    return [(s.category, rle.decode(s.counts, record.height, record.width).tolist()) for s in record.segments]


def test_polygons_rectangles_and_masks(root):
    assert [(c.name, c.isthing) for c in scan(root, "labelme").classes] == [
        ("background", False),
        ("cat", True),
        ("dog", True),
    ]
    records = read(root)
    assert set(records) == {"a", "images/b", "c"}
    placed = np.zeros((HEIGHT, WIDTH), bool)
    placed[1:3, 7:10] = L > 0
    want = [(1, placed), (2, area(0, 4, 4, 4)), (1, area(1, 0, 4, 3))]
    assert masks(records["a"]) == [(c, m.tolist()) for c, m in want]
    semantic = np.zeros((HEIGHT, WIDTH), np.uint8)
    for category, mask in want:
        semantic[mask] = category
    np.testing.assert_array_equal(records["a"].semantic, semantic)
    assert masks(records["images/b"]) == [(1, area(5, 4, 3, 2).tolist())]
    assert records["a"].image == (root / "a.png").read_bytes()


def test_images_within_the_file(root):
    records = read(root)
    np.testing.assert_array_equal(records["c"].pixels, photo(2, HEIGHT, WIDTH))
    assert masks(records["c"]) == [(2, area(2, 2, 2, 2).tolist())]
    assert [i.files for i in scan(root, "labelme").items] == [
        ("a.png", "a.json"),
        ("c.json",),
        ("images/b.png", "labels/b.json"),
    ]


def test_what_items_show(root):
    found = scan(root, "labelme")
    assert {item.id: found.labels(item) for item in found.items} == {"a": {1, 2}, "c": {2}, "images/b": {1}}


def only(root: Path, *shapes: dict[str, Any]) -> Record:
    write(root / "a.json", content("a.png", *shapes))
    return read(root)["a"]


def test_circles(root):
    save(root / "a.png", photo(0, 200, 300))
    (root / "c.json").unlink()
    for x, y, radius in ((100, 80, 60), (150.5, 90.25, 20.5), (40, 40, 3)):
        write(
            root / "a.json",
            content("a.png", shape("cat", [[x, y], [x, y + radius]], "circle"), imageHeight=200, imageWidth=300),
        )
        (segment,) = read(root)["a"].segments
        rows, columns = np.mgrid[:200, :300] + 0.5
        distance = np.hypot(columns - x, rows - y)
        found = rle.decode(segment.counts, 200, 300)
        assert found[distance < radius - 0.5].all()
        assert not found[distance > radius + 0.5].any()
        assert segment.area == pytest.approx(np.pi * radius**2, rel=0.05)


def test_parts_of_a_group_are_one_object(root):
    record = only(
        root,
        box("cat", 0, 0, 2, 2, group_id=1),
        box("dog", 0, 3, 2, 2, group_id=1),
        box("cat", 4, 0, 2, 2, group_id=2),
        box("cat", 8, 6, 2, 2, group_id=1),
        box("cat", 5, 5, 1, 1),
        box("cat", 6, 6, 1, 1),
    )
    assert masks(record) == [
        (c, m.tolist())
        for c, m in [
            (1, area(6, 6, 1, 1)),
            (1, area(5, 5, 1, 1)),
            (1, area(0, 0, 2, 2) | area(8, 6, 2, 2)),
            (1, area(4, 0, 2, 2)),
            (2, area(0, 3, 2, 2)),
        ]
    ]


def test_later_shapes_lie_over_earlier_ones(root):
    record = only(root, box("cat", 4, 2, 2, 2), box("dog", 3, 1, 5, 5))
    assert [(s.category, s.area) for s in record.segments] == [(2, 25), (1, 4)]
    assert (record.semantic[2:4, 4:6] == 2).all()


def test_ignored_pixels_and_background_are_taken_from_what_lies_below(root):
    record = only(
        root,
        box("cat", 0, 0, 6, 6),
        box("__ignore__", 1, 1, 2, 2),
        box("_background_", 4, 4, 3, 3),
        box("dog", 5, 5, 1, 1),
    )
    semantic = area(0, 0, 6, 6).astype(np.uint8)
    semantic[1:3, 1:3], semantic[4:7, 4:7], semantic[5, 5] = IGNORE, 0, 2
    np.testing.assert_array_equal(record.semantic, semantic)
    cat = area(0, 0, 6, 6) & ~area(1, 1, 2, 2) & ~area(4, 4, 3, 3)
    assert masks(record) == [(2, area(5, 5, 1, 1).tolist()), (1, cat.tolist())]
    assert [c.name for c in scan(root, "labelme").classes] == ["background", "cat", "dog"]


def test_listed_classes(root):
    (root / "labels.txt").write_text("__ignore__\n_background_\nzebra\ndog\r\ncat\n\n")
    assert [c.name for c in scan(root, "labelme").classes] == ["background", "zebra", "dog", "cat"]
    assert [s.category for s in read(root)["a"].segments] == [3, 2, 3]
    (root / "labels.txt").unlink()
    (root / "classes.yaml").write_text("- {name: dog, color: [1, 2, 3]}\n- name: cat\n")
    assert [(c.name, c.isthing) for c in scan(root, "labelme").classes[1:]] == [("dog", True), ("cat", True)]
    (root / "classes.yaml").unlink()
    (root / "classes.json").write_text('[{"name": "cat"}, {"name": "dog"}]')
    assert len(read(root)) == 3


def test_an_image_is_taken_as_exif_turns_it(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "a.png", photo(0, WIDTH, HEIGHT), exif=exif)
    np.testing.assert_array_equal(read(root)["a"].pixels, np.rot90(photo(0, WIDTH, HEIGHT), -1))
    save(root / "a.png", photo(0, 9, 9), exif=exif)  # no mask of its own could say which
    write(root / "a.json", content("a.png", box("cat", 0, 0, 2, 2), imageHeight=9, imageWidth=9))
    np.testing.assert_array_equal(read(root)["a"].pixels, np.rot90(photo(0, 9, 9), -1))


def put(*shapes: dict[str, Any], **more: Any) -> Callable[[Path], object]:
    return lambda root: write(root / "a.json", content("a.png", *shapes, **more))


def text(data: str) -> Callable[[Path], object]:
    return lambda root: (root / "a.json").write_text(data)


def with_nan(root: Path) -> None:
    write(root / "a.json", content("a.png", box("cat", float("nan"), 1, 2, 2)))


# What is done, the kind and the file of what is said, and its text.
FAULTS: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "not json": (text("{"), "bad-annotation", "a.json", "is no JSON file of labelme's: "),
    "other json": (text('{"images": []}'), "bad-annotation", "a.json", "has no shapes"),
    "list": (text("[]"), "bad-annotation", "a.json", "is no JSON file of labelme's: expected '{'"),
    "deep": (text("[" * 200_000), "bad-annotation", "a.json", "is no JSON file of labelme's"),
    "deep shape": (
        text('{"imagePath": "a.png", "shapes": [' + "[" * 200_000 + "]" * 200_000 + "]}"),
        "bad-annotation", "a.json", r"shapes\[0\]: is nested too deeply",
    ),
    "no image named": (
        lambda r: write(r / "a.json", {"shapes": []}), "bad-annotation", "a.json", "neither imagePath nor imageData",
    ),
    "missing": (lambda r: (r / "a.png").unlink(), "missing-file", "a.json", "missing"),
    "nan": (with_nan, "bad-annotation", "a.json", r"shapes\[0\]: NaN is no number|shapes\[0\] \('cat'\): NaN"),
    "infinite": (
        text('{"imagePath": "a.png", "shapes": [{"label": "cat", "points": [[1, 2], [1e999, 4], [5, 6]]}]}'),
        "bad-polygon", "a.json", r"shapes\[0\] \('cat'\): .* not finite",
    ),
    "line": (
        put(shape("cat", [[0, 0], [4, 4]], "line")),
        "bad-annotation", "a.json", r"shapes\[0\] \('cat'\): shape_type: Input should be 'polygon', 'rectangle'",
    ),
    "no label": (put({"points": []}), "bad-annotation", "a.json", r"shapes\[0\]: label: Field required"),
    "empty label": (put(box("", 0, 0, 1, 1)), "bad-annotation", "a.json", r"shapes\[0\] \(''\): label"),
    "triple": (put(shape("cat", [[1, 2, 3]] * 4)), "bad-polygon", "a.json", "an x and a y"),
    "two points": (put(shape("cat", [[1, 2], [3, 4]])), "bad-polygon", "a.json", "a polygon of 2 points"),
    "rectangle": (
        put(shape("cat", [[1, 2], [3, 4], [5, 6]], "rectangle")), "bad-polygon", "a.json", "rectangle has 3 points",
    ),
    "far": (put(box("cat", 0, 0, 1e9, 1)), "bad-polygon", "a.json", "over limit"),
    "outside": (put(box("cat", 12, 0, 2, 2)), "outside-image", "a.json", "wholly outside the image of 10x8"),
    "mask outside": (
        put(shape("cat", [[17, 1], [19, 2]], "mask", mask=png(L))), "outside-image", "a.json", "wholly outside",
    ),
    "mask size": (
        put(shape("cat", [[1, 1], [4, 2]], "mask", mask=png(L))),
        "size-mismatch", "a.json", "mask 3x2, its points say 4x2",
    ),
    "mask bytes": (put(shape("cat", [[1, 1], [3, 2]], "mask", mask="###")), "bad-annotation", "a.json", "no.* base64"),
    "mask png": (put(shape("cat", [[1, 1], [3, 2]], "mask", mask="QUJD")), "not-an-image", "a.json", "unknown format"),
    "no mask": (put(shape("cat", [[1, 1], [3, 2]], "mask")), "empty-file", "a.json", "0 bytes"),
    "size": (
        put(imageHeight=WIDTH, imageWidth=HEIGHT), "size-mismatch", "a.json", "imageHeight 8x10, image 10x8",
    ),
    "broken image": (
        lambda r: (r / "a.png").write_bytes((r / "a.png").read_bytes()[:-20]), "truncated", "a.png", "truncated PNG",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "kind", "file", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_takes_its_image_and_no_other(root, damage, kind, file, message):
    damage(root)
    records, faults = take(root, "labelme")
    assert [(f.kind, f.file, f.item, f.outcome) for f in faults] == [(kind, file, "a", "quarantined")]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(faults[0].reason)
    assert [r.id for r in records] == ["c", "images/b"]


def test_all_that_is_wrong_with_a_file_is_said(root):
    put(shape("cat", [[1, 2]]), box("cat", 1, 1, 1e9, 1), box("dog", 20, 20, 3, 3))(root)
    _, faults = take(root, "labelme")
    assert [f.kind for f in faults] == ["bad-polygon", "bad-polygon", "outside-image"]


def test_broken_image_data(root):
    write(root / "c.json", content("gone.jpg", box("dog", 2, 2, 2, 2), imageData="###"))
    _, faults = take(root, "labelme")
    assert [(f.kind, f.file, f.item, f.reason) for f in faults] == [
        ("bad-annotation", "c.json", "c", "imageData is not base64")
    ]


def test_labels_that_are_not_listed(root):
    (root / "labels.txt").write_text("cat\n")
    records, faults = take(root, "labelme")
    assert [(f.kind, f.item) for f in faults] == [("unknown-category", "a"), ("unknown-category", "c")]
    assert faults[0].reason == "labels 'dog' are not in the list of classes"
    assert [r.id for r in records] == ["images/b"]


def test_images_without_a_file_and_images_with_two(root):
    save(root / "d.png", photo(0, HEIGHT, WIDTH))
    write(root / "e.json", content("a.png"))
    records, faults = take(root, "labelme")
    assert [(f.kind, f.file, f.item) for f in faults] == [("name-clash", "e.json", "a"), ("no-mask", "d.png", "d")]
    assert accounted(records, faults) == {"a", "c", "d", "images/b"}


@pytest.mark.parametrize("path", ["../../x.png", "/etc/hostname", "..\\x.png"])
def test_paths_that_leave_the_root(root, path):
    write(root / "a.json", content(path))
    _, faults = take(root, "labelme")
    assert ("outside-root", "a.json", "stop") in [(f.kind, f.file, f.outcome) for f in faults]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("labels.txt", "cat\ncat\n", "class 'cat' is there twice"),
        ("labels.txt", "background\n", "class 0 has this name"),
        ("labels.txt", "\n".join(map(str, range(255))), "256 classes"),
        ("classes.yaml", "- nam: cat\n", "not as expected"),
    ],
)
def test_lists_of_classes_that_cannot_be_used(root, name, data, message):
    (root / name).write_text(data)
    _, faults = take(root, "labelme")
    stops = [f for f in faults if f.outcome == "stop"]
    assert [(f.kind, f.file) for f in stops] == [("class-table", name)]
    assert message in stops[0].reason


def test_an_empty_folder_is_said(tmp_path):
    assert [f.kind for f in take(tmp_path, "labelme")[1]] == ["layout"]


CLIPPED = "shapes[0] ('cat'): reaches out of the image of 10x8, clipped"
MENDED = {
    "clipped": (
        [box("cat", 8, 6, 9, 9)],
        [4],
        [("clipped", "shapes[0] ('cat'): reaches out of the image of 10x8, clipped")],
    ),
    "mask clipped": (
        [shape("cat", [[-1, 7], [1, 8]], "mask", mask=png(L[::-1]))],
        [2],
        [("clipped", "shapes[0] ('cat'): reaches out of the image of 10x8, clipped")],
    ),
    "nothing": ([box("cat", 1, 1, 0, 3)], [], [("covers-nothing", "shapes[0] ('cat'): covers no pixel, left out")]),
    "hidden": (
        [box("cat", 1, 1, 2, 2), box("__ignore__", 0, 0, 4, 4)],
        [],
        [("covers-nothing", "shapes[0] ('cat'): covers no pixel, left out")],
    ),
    "none": ([], [], [("no-annotations", "has no shapes: all of it is background")]),
}


@pytest.mark.parametrize(("shapes", "areas", "changes"), MENDED.values(), ids=MENDED)
def test_what_is_mended_is_listed(root, shapes, areas, changes):
    record = only(root, *shapes)
    assert [s.area for s in record.segments] == areas
    assert [(f.kind, f.reason) for f in record.mended] == changes
    assert {(f.file, f.item) for f in record.mended} == {("a.json", "a")}


def test_an_image_is_not_held_while_the_folder_is_looked_at(root):
    write(root / "c.json", content("gone.jpg", imageData="A" * 1_000_000))
    assert len(repr(scan(root, "labelme").items)) < 2000
    assert labelme.parse((root / "c.json").read_bytes()).data == "A" * 1_000_000


def test_an_image_that_two_files_name_is_left_out(root):
    write(root / "second.json", content("a.png", box("dog", 1, 0, 4, 3)))
    records, faults = take(root, "labelme")
    assert {r.id for r in records} == {"c", "images/b"}
    assert [(f.kind, f.file, f.item) for f in faults] == [("name-clash", "second.json", "a")]


def test_spaces_around_a_label_are_none_of_it(root):
    write(root / "a.json", content("a.png", box("cat ", 1, 0, 4, 3), box(" cat", 5, 0, 2, 2)))
    assert [c.name for c in scan(root, "labelme").classes] == ["background", "cat", "dog"]
    assert [s.category for s in read(root)["a"].segments] == [1, 1]


def test_pictures_of_other_formats_are_told(root):
    save(root / "images/x.gif", photo(0, HEIGHT, WIDTH))
    _, faults = take(root, "labelme")
    assert [(f.kind, f.item) for f in faults] == [("suffix-unknown", "images/x")]
