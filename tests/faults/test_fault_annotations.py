"""Annotations that cannot be believed, in COCO's two formats, and those that are used after a change."""

from pathlib import Path

import numpy as np
import pytest

from tests.faults.annotation_cases import (
    AREA,
    COCO,
    COCO_JSON,
    PANOPTIC,
    PANOPTIC_JSON,
    Published,
)
from tests.faults.line import (
    Case,
    Taken,
    check_accounts,
    check_case,
    check_nothing_half_written,
    check_unharmed,
    content,
    records,
    refusal,
    take,
)
from tests.faults.matter import HEIGHT, WIDTH
from tests.faults.sources import publish

SOUND = [f"sound-{i:02}" for i in range(45)]
CASES = {"coco": COCO, "coco-panoptic": PANOPTIC}
OBJECT = np.zeros((HEIGHT, WIDTH), bool)
OBJECT[2:6, 2:7] = True


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    return spoilt(tmp_path_factory.mktemp("coco"), "coco", COCO_JSON)


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    return spoilt(tmp_path_factory.mktemp("panoptic"), "coco-panoptic", PANOPTIC_JSON)


def spoilt(folder: Path, format: str, json: str) -> Taken:
    cases = CASES[format]
    publish(folder / "source", format, [*SOUND, *(case.name for case in cases)])

    def spoil(root: Path) -> None:
        source = Published.read(root, json)
        for case in cases:
            case.spoil(source, case.name)
        source.write()

    return take(folder / "source", folder / "broken", folder, format, spoil)


@pytest.mark.parametrize("case", COCO, ids=lambda case: case.name)
def test_each_fault_of_coco_has_its_outcome(case: Case, coco: Taken):
    check_case(case, coco, f"train/{case.name}")


@pytest.mark.parametrize("case", PANOPTIC, ids=lambda case: case.name)
def test_each_fault_of_coco_panoptic_has_its_outcome(case: Case, panoptic: Taken):
    check_case(case, panoptic, f"train/{case.name}")


@pytest.fixture(params=["coco", "panoptic"])
def taken(request: pytest.FixtureRequest) -> Taken:
    return request.getfixturevalue(request.param)


def test_the_line_stops_and_says_so(taken):
    said = refusal(taken.strict)
    assert f"{taken.strict.report.quarantined} of {taken.strict.report.found} images cannot be used" in said
    assert taken.strict.report.faults == taken.lenient.report.faults
    check_nothing_half_written(taken.folder, "strict")


def test_every_image_is_accounted_for(taken):
    check_accounts(taken, set(records(taken.folder / "clean")))


def test_the_other_images_are_unharmed(taken):
    check_unharmed(taken, [f"train/{key}" for key in SOUND])


def test_a_mended_source_gives_the_dataset_of_a_clean_one(taken):
    assert taken.mended.manifest.hash == taken.clean.manifest.hash != taken.lenient.manifest.hash
    assert content(taken.folder / "mended/shards") == content(taken.folder / "clean/shards")


def test_the_object_is_where_it_was_painted(taken):
    for _, semantic, segments in records(taken.folder / "clean").values():
        assert [(mask, crowd) for _, crowd, mask in segments] == [(OBJECT.tobytes(), False)]
        assert (semantic[OBJECT] == semantic[3, 3]).all()


def test_what_becomes_of_mended_annotations(coco):
    """None loses an image, and none invents an object."""
    found = {key: segments for key, (_, _, segments) in records(coco.folder / "lenient").items()}
    for name in ("d16-no-annotations", "d16-empty", "d16-line"):
        assert found[f"train/{name}"] == []
    crowd = np.zeros((WIDTH, HEIGHT), bool)
    crowd[1:3] = True
    assert found["train/d16-crowd"] == [(1, True, crowd.T.tobytes())]
    for name in ("d16-box", "d18-part"):
        assert found[f"train/{name}"] == [(1, False, OBJECT.tobytes())]
    ((_, _, clipped),) = found["train/s12-clipped"]
    assert 0 < sum(clipped) < AREA
