"""Faults of the dataset as a whole, which stop the line whatever `dataset.max_rejected` allows."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.data.faults import KINDS
from pipelines.errors import DataError
from tests.faults.annotation_cases import COCO_JSON, PANOPTIC_JSON, VERBATIM, Published
from tests.faults.line import Case, refusal, run


def text(name: str, content: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_text(content) and None


def gone(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def moved(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).rename(root / f"{name} of before")


def changed(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        source = Published.read(root, name)
        change(source.raw)
        source.write()

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-20]) and None


def other_sum(name: str) -> Callable[[Path], None]:
    return lambda root: (root / "SHA256SUMS").write_text(f"{'0' * 64}  {name}\n") and None


def second_json(root: Path) -> None:
    raw = json.loads((root / COCO_JSON).read_text())
    raw |= {"images": [], "annotations": [], "categories": [{"id": 1, "name": "bird"}]}
    (root / COCO_JSON.replace("train", "val")).write_text(json.dumps(raw))


def laughs() -> str:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 12)]
    return "\n".join(lines)


CLASSES = "classes.yaml"
NUMBERED = "".join(f"- {{name: c{k}}}\n" for k in range(256))
STOPS = [
    ("folder", Case("d23-no-classes", "class-table", "is missing: list the classes", gone(CLASSES))),
    (
        "folder",
        Case("d23-same-class", "class-table", "classes of the same name: a", text(CLASSES, "- name: a\n- name: a\n")),
    ),
    ("folder", Case("d23-256-classes", "class-table", "256 classes, allowed are 1 to 255", text(CLASSES, NUMBERED))),
    ("folder", Case("d23-slip", "class-table", "isthin", text(CLASSES, "- {name: a, isthin: true}\n"))),
    (
        "folder",
        Case(
            "s11-object",
            "class-table",
            "could not determine a constructor",
            text(CLASSES, "- !!python/object/apply:os.mkdir [called]\n"),
        ),
    ),
    ("folder", Case("s11-laughs", "class-table", "not as expected", text(CLASSES, laughs()))),
    ("folder", Case("s11-deep-yaml", "class-table", "cannot be read", text(CLASSES, "[" * 100_000))),
    ("folder", Case("s11-long", "dataset-file", "bytes .* over limit", text(CLASSES, "#" * (1 << 21)))),
    ("folder", Case("d03-classes", "dataset-file", "sha256 mismatch", other_sum(CLASSES))),
    ("coco", Case("d03-json", "dataset-file", "sha256 mismatch", other_sum(COCO_JSON))),
    ("coco", Case("d17-cut", "unreadable-json", "at character", cut(COCO_JSON))),
    ("coco", Case("d17-list", "unreadable-json", "expected '{'", text(COCO_JSON, "[]"))),
    (
        "coco",
        Case(
            "d17-deep-file",
            "unreadable-json",
            "info: is nested too deeply",
            text(COCO_JSON, f'{{"info": {VERBATIM["@deep"]}}}'),
        ),
    ),
    (
        "coco",
        Case(
            "d17-nan-category",
            "unreadable-json",
            "NaN is no number",
            changed(COCO_JSON, lambda raw: raw["categories"][0].update(id=float("nan"))),
        ),
    ),
    (
        "coco",
        Case(
            "d17-of-no-image",
            "unreadable-json",
            "annotation 1000",
            changed(COCO_JSON, lambda raw: raw["annotations"][0].update(image_id=None)),
        ),
    ),
    (
        "coco",
        Case(
            "d17-no-categories",
            "unreadable-json",
            "has no categories",
            changed(COCO_JSON, lambda raw: raw.pop("categories")),
        ),
    ),
    (
        "coco",
        Case(
            "d17-same-category",
            "class-table",
            "category id 7 is there twice",
            changed(COCO_JSON, lambda raw: raw["categories"].append(raw["categories"][0])),
        ),
    ),
    ("coco", Case("d23-other-categories", "class-table", "has other categories than the first", second_json)),
    ("coco", Case("d20-no-json", "layout", r"holds no instances_\*\.json", moved(COCO_JSON))),
    ("coco-panoptic", Case("d17-panoptic-cut", "unreadable-json", "not as expected", cut(PANOPTIC_JSON))),
    (
        "coco-panoptic",
        Case("d17-panoptic-deep", "unreadable-json", "not as expected", text(PANOPTIC_JSON, VERBATIM["@deep"])),
    ),
    (
        "coco-panoptic",
        Case(
            "d17-panoptic-nan",
            "unreadable-json",
            "not as expected",
            changed(PANOPTIC_JSON, lambda raw: raw["images"][0].update(id=float("nan"))),
        ),
    ),
    (
        "voc",
        Case("d03-list", "dataset-file", r"train\.txt: sha256 mismatch", other_sum("ImageSets/Segmentation/train.txt")),
    ),
    (
        "voc",
        Case("d22-no-lists", "layout", "there is no folder ImageSets/Segmentation", moved("ImageSets/Segmentation")),
    ),
    (
        "cityscapes",
        Case("d22-no-labels", "layout", "there must be leftImg8bit/ and gtFine/ or gtCoarse/", moved("gtFine")),
    ),
]


@pytest.mark.parametrize(("format", "case"), STOPS, ids=lambda value: getattr(value, "name", value))
def test_the_line_stops_whatever_may_be_left_out(format, case, sound, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = sound(format)
    with source.spoilt() as root:
        case.spoil(root)
        done = run(root, tmp_path / "out", format=format, max_rejected=1.0, stratify=False)
    said = refusal(done)
    assert "the dataset as a whole cannot be used" in said
    told = [f for f in done.report.faults if f.outcome == "stop"]
    assert any(re.search(case.says, f.reason) for f in told if f.kind == case.kind)
    assert KINDS[case.kind] == "stop"
    assert all(fault.line in said for fault in told)
    assert {p.name for p in tmp_path.iterdir()} == {"out.state"}
    assert source.again(tmp_path / "mended") == source.hash


@pytest.mark.parametrize("name", ["nothing", "classes.yaml"])
def test_a_root_that_is_no_folder_is_refused(name, sound, tmp_path):
    with pytest.raises(DataError, match=r"is not a folder\ndo: set dataset\.root in params\.yaml"):
        run(sound("folder").root / name, tmp_path / "out")


def test_d22_a_folder_without_images_is_refused(sound, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/classes.yaml").write_text("- {name: a}\n")
    done = run(tmp_path / "source", tmp_path / "out", max_rejected=1.0)
    assert "there are no images: dataset.root must hold classes.yaml, images/ and masks/" in refusal(done)
    assert [f.kind for f in done.report.faults] == ["layout"]


def test_d03_a_list_of_splits_that_was_changed_is_refused(sound, tmp_path):
    with sound("folder").spoilt() as root:
        (root / "splits").mkdir()
        (root / "splits/train.txt").write_text("a\nb\n")
        (root / "SHA256SUMS").write_text(f"{'0' * 64}  splits/train.txt\n")
        with pytest.raises(DataError, match=r"splits/train\.txt: sha256 mismatch.*\ndo: restore the list"):
            run(root, tmp_path / "out")
