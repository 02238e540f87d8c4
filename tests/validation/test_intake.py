import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import DataError
from pipelines.validation import intake

HASH = "0a1b2c" * 8
FINDINGS = [
    {"file": "b.png", "outcome": "mended", "kind": "palette", "reason": "to RGB"},
    {"file": "c.png", "outcome": "mended", "kind": "exif-rotation", "reason": "turned"},
    {"file": "d.png", "outcome": "mended", "kind": "exif-rotation", "reason": "turned"},
    {"file": "a.png", "outcome": "quarantined", "kind": "truncated", "reason": "it ends", "item": "a"},
]
SAID = {
    "outcome": "written",
    "dataset": HASH,
    "images": {"found": 12, "kept": 11, "mended": 3, "skipped": 0, "quarantined": 1},
    "max_rejected": 0.2,
    "source_hashes": True,
    "counts": {"truncated": 1, "palette": 1, "exif-rotation": 2},
    "findings": FINDINGS,
}


def read(folder: Path, text: str) -> intake.Intake:
    (folder / "report.json").write_text(text)
    return intake.read(folder, HASH)


def test_what_was_left_out_comes_first(tmp_path):
    found = read(tmp_path, json.dumps(SAID))
    assert (found.found, found.kept, found.mended, found.quarantined) == (12, 11, 3, 1)
    assert (found.max_rejected, found.source_hashes) == (0.2, True)
    assert [f.file for f in found.findings] == ["a.png", "c.png", "d.png", "b.png"]
    assert found.kinds() == [("quarantined", "truncated", 1), ("mended", "exif-rotation", 2), ("mended", "palette", 1)]


def test_it_reads_what_ingest_writes(tmp_path):
    from pipelines.data.faults import Fault
    from pipelines.data.ingest.report import Report

    faults = (Fault("truncated", "a.png", "it ends", "a"), Fault("palette", "b.png", "to RGB", "b"))
    counts = {"kept": 4, "mended": 1, "skipped": 0, "quarantined": 1, "max_rejected": 0.5, "source_hashes": False}
    written = Report(outcome="written", why="", dataset=HASH, faults=faults, **counts)
    found = read(tmp_path, json.dumps(written.to_json()))
    assert (found.found, found.kept, found.mended, found.quarantined) == (5, 4, 1, 1)
    assert [(f.file, f.outcome) for f in found.findings] == [("a.png", "quarantined"), ("b.png", "mended")]


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in SAID.items() if name != key}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"report\.json is damaged: "),
        ("[1]", r"report\.json is damaged: "),
        ("[" * 100_000, r"report\.json is damaged: "),
        (json.dumps(without("images")), r"damaged: no 'images'"),
        (json.dumps(without("findings")), r"damaged: no 'findings'"),
        (json.dumps(SAID | {"images": {**SAID["images"], "kept": 12}}), "damaged: images do not add up"),
        (json.dumps(SAID | {"images": {**SAID["images"], "mended": "3"}}), r"damaged: images\.mended is no count"),
        (json.dumps(SAID | {"findings": [{"file": "a"}]}), "damaged: no 'outcome'"),
        (json.dumps(SAID | {"findings": [{**FINDINGS[0], "outcome": "lost"}]}), "damaged: a finding .* 'lost'"),
        (json.dumps(SAID | {"findings": [{**FINDINGS[0], "file": 7}]}), "damaged: int where a text should be"),
        (json.dumps(SAID | {"outcome": "stopped", "dataset": None}), "ingest stopped, and wrote no dataset"),
        (json.dumps(SAID | {"dataset": "f" * 48}), "about the dataset ffffffffffff, and .* 0a1b2c0a1b2c"),
    ],
)
def test_what_cannot_be_believed_is_refused_in_one_message(tmp_path, text, said):
    with pytest.raises(DataError, match=said) as error:
        read(tmp_path, text)
    assert "do: dvc repro" in str(error.value)


def test_a_missing_report_says_what_to_run(tmp_path):
    with pytest.raises(DataError, match=r"report\.json is missing\ndo: dvc repro ingest"):
        intake.read(tmp_path, HASH)


def test_names_are_made_readable(tmp_path):
    """Bytes that are no UTF-8 come as lone surrogates, which no page can hold."""
    name = b"caf\xe9 \xe7\x8c\xab.png".decode("utf-8", "surrogateescape") + "\u202egnp\n"
    found = read(tmp_path, json.dumps(SAID | {"findings": [{**FINDINGS[3], "file": name}]}))
    assert found.findings[0].file == r"caf\udce9 猫.png\u202egnp\n"
    found.findings[0].file.encode()
