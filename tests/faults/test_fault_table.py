"""That nothing is left out: every kind of fault is produced by a test, every row is named by one or by a reason why it
cannot hold, and the page for users lists the kinds as they are."""

import re
from pathlib import Path

import pytest

from pipelines.data.faults import KINDS
from tests.faults import annotation_cases, image_cases, test_fault_datasets, test_fault_paths

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in Path(__file__).parent.glob("test_fault_*.py"))

# Kinds that no table of cases has, and the test that produces them.
ELSEWHERE = {
    "crashed": "test_d02_a_reading_process_that_dies_costs_one_image",
    "no-split": "test_d15_no_split_where_the_others_have_one",
    "outside-root": "test_d19_what_leads_outside_is_refused_and_never_opened",
    "source-hash": "test_d03_a_flipped_bit_is_found_where_the_source_brings_hashes",
    "unlabelled": "test_d15_unlabelled_images_are_told_and_cost_nothing",
    "unlisted": "test_d08_classes_that_a_table_leaves_out_are_ignored_and_counted",
}
ROWS = {
    *(f"d{k:02}" for k in range(1, 25)),
    *("a01", "a02", "a03", "a05", "a06"),
    *("s08", "s09", "s10", "s11", "s12", "s13", "s17", "s18"),
}
# What does not hold, or not wholly, and why.
LIMITS = {
    "a05": "a mapped shard's size is looked at before each row: one that is cut between the look and the read still "
    "ends the process by SIGBUS, and the record that somebody holds stays a view of the file",
    "d03": "without SHA256SUMS a flipped bit in a JPEG is another picture, which nothing can tell; the report says "
    "that there were no hashes",
    "d08": "masks of 0 and 255 stop the line where all are such; a few among others say that their 255 is ignored",
    "d20": "archives are not read at all: a root that is one is refused, so there is nothing to unpack safely",
    "d21": "lookalikes are a warning, copies stop the line",
    "d23": "ingest does not know earlier datasets: another class table gives another hash, which later stages compare",
    "d24": "two names that differ in their Unicode form alone are two images",
    "s08": "the process that decodes has bounded memory and time and may die; the kernel does not keep it from sockets",
    "s09": "as d20",
    "s10": "a folder that is replaced by a link between the look at a name and its opening would be followed",
    "s13": "mutants of shards are refused by their hash, and never mapped: those that fit their hash are ingest's own",
}


def functions() -> dict[str, str]:
    """Every test function here -> its source."""
    found = {}
    for module in MODULES:
        text = (Path(__file__).parent / f"{module}.py").read_text()
        parts = re.split(r"^(?=def (test_\w+))", text, flags=re.MULTILINE)
        found.update(zip(parts[1::2], parts[2::2], strict=True))
    return found


def cases() -> list[tuple[str, str]]:
    """Name and kind of every case."""
    stops = [case for _, case in test_fault_datasets.STOPS]
    listed = [*image_cases.CASES, *annotation_cases.COCO, *annotation_cases.PANOPTIC, *stops]
    return [(case.name, case.kind) for case in listed]


def test_every_kind_of_fault_is_produced():
    assert {kind for _, kind in cases() if kind} | ELSEWHERE.keys() == KINDS.keys()


@pytest.mark.parametrize("kind", ELSEWHERE)
def test_the_test_of_a_kind_is_there_and_asserts_it(kind):
    assert f'"{kind}"' in functions()[ELSEWHERE[kind]]


def test_every_row_has_a_test_or_a_reason():
    names = [*functions(), *(name for name, _ in cases()), *test_fault_paths.OUTSIDE]
    named = {row for name in names for row in re.findall(r"(?:^|_)([das]\d\d)(?=[-_])", name)}
    named |= {row for text in functions().values() for row in re.findall(r'id="([das]\d\d)-', text)}
    assert named <= ROWS
    assert ROWS - named == {"s09", "s13"}
    assert ROWS - named <= LIMITS.keys() <= ROWS


def test_the_page_lists_the_kinds_as_they_are():
    page = (ROOT / "docs/faults.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+) \|$", page, flags=re.MULTILINE)
    assert [(kind, outcome) for kind, outcome, _ in rows] == list(KINDS.items())
    assert all(10 < len(meaning) < 160 for _, _, meaning in rows)
