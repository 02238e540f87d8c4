"""Files that are not what they should be: one folder of sound images, of which half are spoilt, each in its own way."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.faults.image_cases import CASES, CLASSES, CORNERS, SEMANTIC, THING, put
from tests.faults.line import (
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
from tests.faults.matter import encoded, photo

RENAMED = {"d24-not-utf-8", "d24-newline", "d24-nfd"}  # are told under their new names, and their labels under these
ROUND_TRIP = [
    "x" * 251,
    "d24-e\u0301",
    "d24-\u00fc ß/猫, 'quoted' & <b>",
    "d24-\u00c5",
]  # kept, whatever disks think of them
SOUND = [*(f"sound-{i:03}" for i in range(90)), *ROUND_TRIP]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images") / "clean"
    table = "".join(f"- {{name: c{k}, isthing: {str(k == THING).lower()}}}\n" for k in range(CLASSES))
    put(root / "classes.yaml", table.encode())
    for k, key in enumerate([*SOUND, *(case.name for case in CASES)]):
        semantic = CORNERS if key.startswith("d07") else SEMANTIC
        put(root / f"images/{key}.png", encoded(photo(100 + k)))
        put(root / f"masks/{key}.png", encoded(semantic))
        put(root / f"instances/{key}.png", encoded((semantic == THING).astype(np.uint16)))
    return root


@pytest.fixture(scope="module")
def ghostscript(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """First on the path: leaves a mark where it is called."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {folder}/called\n")
    (folder / "gs").chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        yield folder / "called"


@pytest.fixture(scope="module")
def taken(clean: Path, ghostscript: Path) -> Taken:
    def spoil(root: Path) -> None:
        for case in CASES:
            case.spoil(root, case.name)

    return take(clean, clean.with_name("broken"), clean.parent, "folder", spoil)


@pytest.fixture(scope="module")
def before(taken: Taken) -> dict:
    return records(taken.folder / "clean")


@pytest.fixture(scope="module")
def after(taken: Taken) -> dict:
    return records(taken.folder / "lenient")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_fault_has_its_outcome(case, taken, before, after):
    check_case(case, taken, case.name)
    if case.pixels:
        np.testing.assert_array_equal(after[case.name][0], case.pixels(before[case.name][0]))


def test_the_line_stops_and_says_so(taken):
    said = refusal(taken.strict)
    assert f"{taken.strict.report.quarantined} of {taken.strict.report.found} images cannot be used" in said
    assert taken.strict.report.faults == taken.lenient.report.faults
    check_nothing_half_written(taken.folder, "strict")


def test_every_image_is_accounted_for(taken):
    check_accounts(taken, {*SOUND, *(case.name for case in CASES)} - RENAMED)


def test_the_other_images_are_unharmed(taken):
    check_unharmed(taken, SOUND)


def test_names_round_trip(before):
    assert set(ROUND_TRIP) <= set(before)


def test_pixels_are_those_of_the_files(clean, before):
    """Not of ingest's own reading: by another decoder."""
    assert len(before) == len(SOUND) + len(CASES)
    for key, (pixels, semantic, segments) in before.items():
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(clean / f"images/{key}.png")))
        np.testing.assert_array_equal(semantic, np.asarray(Image.open(clean / f"masks/{key}.png")))
        mask = np.asarray(Image.open(clean / f"instances/{key}.png")) == 1
        assert segments == [(THING, False, mask.tobytes())]


def test_palettes_keep_their_ids(after):
    for name in ("d07-palette", "d07-palette-with-alpha"):
        np.testing.assert_array_equal(after[name][1], CORNERS)


def test_a_mended_source_gives_the_dataset_of_a_clean_one(taken):
    assert taken.mended.manifest.hash == taken.clean.manifest.hash
    assert taken.mended.manifest.hash != taken.lenient.manifest.hash
    assert content(taken.folder / "mended/shards") == content(taken.folder / "clean/shards")


def test_d06_no_program_is_called(taken, ghostscript):
    assert not ghostscript.exists()
