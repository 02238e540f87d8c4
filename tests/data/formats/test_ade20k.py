"""ADE20K's scene parsing benchmark: zero is ignored exactly once."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.faults import Fault
from pipelines.data.formats import ade20k
from pipelines.data.formats.source import Scan, Source
from pipelines.data.tree import Tree
from tests.data.formats.taking import accounted, take

SIZE = (10, 16)
MASK = np.minimum(np.arange(160), 150).astype(np.uint8).reshape(SIZE)  # 0..150, and nine more of the last
A = "training/ADE_train_00000001"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def put(base: Path, key: str, mask: np.ndarray | None = MASK) -> None:
    save(base / f"images/{key}.jpg", np.full((*SIZE, 3), 90, np.uint8))
    if mask is not None:
        save(base / f"annotations/{key}.png", mask)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "ADEChallengeData2016"
    put(base, A)
    put(base, "validation/ADE_val_00000001")
    return base


def scan(root: Path) -> Scan:
    return ade20k.scan(Source(tree=Tree(str(root))))


def faults(root: Path) -> list[Fault]:
    records, said = take(root, "ade20k")
    images = {p.relative_to(root).as_posix().partition("images/")[2] for p in root.rglob("images/**/*.jpg")}
    assert {name.removesuffix(".jpg") for name in images} <= accounted(records, said)
    assert not {r.id for r in records} & {f.item for f in said}
    return said


def test_zero_is_ignored_and_the_classes_move_down_once(tmp_path, base):
    for root in (tmp_path, base):
        found = scan(root)
        assert list(found.faults) == []
        assert len(found.classes) == 150
        assert [found.classes[k].name for k in (0, 1, 12, 149)] == ["wall", "building", "person", "flag"]
        assert not any(c.isthing for c in found.classes)
        assert [(i.id, i.split) for i in found.items] == [(A, "train"), ("validation/ADE_val_00000001", "val")]
        for item in found.items:
            record = found.read(item)
            np.testing.assert_array_equal(record.semantic, np.where(MASK == 0, 255, MASK.astype(int) - 1))
            assert np.bincount(record.semantic.ravel(), minlength=256).tolist() == [1] * 149 + [10] + [0] * 105 + [1]
            assert record.segments == ()
            assert found.labels(item) == set(range(150))


def test_masks_that_went_through_it_before_are_refused(base):
    save(base / f"annotations/{A}.png", MASK - 1)  # 0 wraps to 255
    (found,) = faults(base)
    assert (found.kind, found.item, found.outcome) == ("label-value", A, "quarantined")
    assert "1 pixels of 255" in found.reason
    assert "take the masks as published" in found.reason


def test_images_of_a_folder_without_masks_are_left_out(base):
    put(base, "testing/ADE_test_00000001", None)
    assert [(f.kind, f.item) for f in faults(base)] == [("unlabelled", "testing/ADE_test_00000001")]


WRONG = {
    "no mask": (lambda b: (b / f"annotations/{A}.png").unlink(), "no-mask"),
    "one without mask": (lambda b: put(b, "training/b", None), "no-mask"),
    "no image": (lambda b: (b / f"images/{A}.jpg").unlink(), "no-image"),
    "value": (lambda b: save(b / f"annotations/{A}.png", MASK + 1), "label-value"),
    "size": (lambda b: save(b / f"annotations/{A}.png", MASK.T), "size-mismatch"),
    "colours": (lambda b: save(b / f"annotations/{A}.png", np.zeros((*SIZE, 3), np.uint8)), "colour-mask"),
    "image": (lambda b: (b / f"images/{A}.jpg").write_bytes(b"<html>"), "not-an-image"),
}


@pytest.mark.parametrize(("damage", "kind"), WRONG.values(), ids=WRONG.keys())
def test_faults(base, damage, kind):
    damage(base)
    assert [f.kind for f in faults(base)] == [kind]


def test_another_layout_is_refused(tmp_path):
    put(tmp_path, "a", None)
    (fault,) = scan(tmp_path).faults
    assert (fault.kind, fault.outcome) == ("layout", "stop")
    assert fault.reason.startswith("there is no folder annotations/training or annotations/validation in /")
