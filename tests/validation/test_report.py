import html
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.data.schema import ClassInfo
from pipelines.validation import balance, checks, report
from pipelines.validation.expectations import Limits, Outcome, judge
from pipelines.validation.intake import Finding, Intake
from pipelines.validation.suites import CHECKS

EVIL = "<script>alert('&')</script>"
LIMITS = Limits(
    task="panoptic",
    min_images={"train": 5, "val": 2, "test": 2},
    max_ignored=0.5,
    min_class_pixels=1,
    max_class_drift=1.0,
    max_size_drift=1.0,
)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Names with markup, a class that no image shows, a copy in val, a picture that does not decode, an empty test."""
    folder = tmp_path_factory.mktemp("broken")
    train = [shapes.draw("train", i, seed=0, height=64, width=96, difficulty=0.5) for i in range(6)]
    val = [shapes.draw("val", i, seed=0, height=300, width=40, difficulty=0.5) for i in range(2)]
    records = [
        *(replace(r, id=f"{r.id}{EVIL}") for r in train),
        *val,
        replace(train[2], id=f"copy {EVIL}", split="val"),
        replace(val[1], id="cut", image=val[1].image[:8], pixels=np.zeros((300, 40, 3), np.uint8)),
    ]
    classes = (*shapes.classes(), ClassInfo(name=EVIL, color=(0, 0, 0), isthing=False))
    shards.write(records, classes=classes, name=EVIL, format="folder", out=folder, rows_per_shard=4)
    return folder


@pytest.fixture(scope="module")
def intake() -> Intake:
    """Two left out, four mended: one name with markup."""
    out = [Finding(file=f"{n}.png", outcome="quarantined", kind="truncated", reason="it ends") for n in (EVIL, "b")]
    mended = [Finding(file=f"m{i}.png", outcome="mended", kind="palette", reason="to RGB") for i in range(4)]
    return Intake(
        found=12,
        kept=10,
        mended=4,
        skipped=0,
        quarantined=2,
        max_rejected=0.2,
        source_hashes=False,
        findings=(*out, *mended),
    )


@pytest.fixture(scope="module")
def judged(broken: Path, intake: Intake) -> tuple[checks.Tables, list[Outcome]]:
    tables = checks.tabulate(broken, intake)
    return tables, judge(tables, LIMITS, CHECKS)


def page_of(tables: checks.Tables, outcomes: list[Outcome], folder: Path) -> str:
    manifest = tables.manifest
    weights = balance.summarize(
        tables.tally, manifest.classes, dataset=manifest.hash, repeat_threshold=0.5, effective_beta=0.9
    )
    return report.page(tables, outcomes, weights, folder)


def test_the_report_for_machines(judged):
    tables, outcomes = judged
    said = report.summarize(tables, outcomes)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["success"] is False
    assert said["dataset"] == tables.manifest.hash
    assert all(
        list(check) == ["name", "severity", "success", "expected", "found", "examples"] for check in said["checks"]
    )
    failed = {check["name"]: check for check in said["checks"] if not check["success"]}
    assert {n for n, c in failed.items() if c["severity"] == "critical"} == {
        "structure.decodes",
        "splits.test",
        "classes.train",
        "leakage.copies",
    }
    assert failed["leakage.copies"]["examples"] == [
        {"copy_of": f"train/000002{EVIL}", "id": f"copy {EVIL}", "split": "val"}
    ]
    assert said["ingest"] == {
        "images": {"found": 12, "kept": 10, "mended": 4, "skipped": 0, "quarantined": 2},
        "source_hashes": False,
        "findings": [
            {"outcome": "quarantined", "kind": "truncated", "count": 2},
            {"outcome": "mended", "kind": "palette", "count": 4},
        ],
    }
    statistics = said["statistics"]
    assert statistics["image_sizes"] == {"96x64": 7, "40x300": 3}
    assert sum(statistics["object_sides"].values()) == sum(tables.manifest.instances.values())
    assert [s["images"] for s in statistics["splits"]] == [6, 4, 0]


def test_both_reports_are_the_same_each_time(broken, judged, intake):
    tables, outcomes = judged
    again = checks.tabulate(broken, intake, workers=3)
    retried = judge(again, LIMITS, CHECKS)
    summaries = [report.summarize(*pair) for pair in ((tables, outcomes), (again, retried))]
    assert json.dumps(summaries[0]) == json.dumps(summaries[1])
    assert page_of(tables, outcomes, broken) == page_of(again, retried, broken)


def test_the_page_says_every_fault_and_needs_no_network(broken, judged):
    tables, outcomes = judged
    page = page_of(tables, outcomes, broken)
    assert "Not fit for training: 4 faults" in page
    assert "No picture is in two splits" not in page
    for name in ("structure.decodes", "splits.test", "classes.train", "leakage.copies"):
        assert f"</span>{name}</h3>" in page
    assert not re.findall(
        r"""(?:src|href)=["'](?!data:image/jpeg;base64,|data_docs/|report\.json|balance\.json)""", page
    )
    assert "http" not in page
    assert not re.search(r"@import|url\(", page)


def test_markup_in_names_is_text_on_the_page(broken, judged):
    tables, outcomes = judged
    page = page_of(tables, outcomes, broken)
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;") > 5


def cells(page: str, section: str) -> list[list[str]]:
    """The texts of a section's table rows."""
    inside = page.split(f'<section id="{section}"')[1].split("</section>")[0]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in re.findall(r"<tr>(.*?)</tr>", inside, re.S)]
    return [[html.unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in row] for row in rows]


def test_the_page_lists_what_ingest_left_out_and_mended(broken, judged, monkeypatch):
    page = page_of(*judged, broken)
    assert "12 images found, 10 kept, 4 of them" in page
    assert "2 left out (16.7%" in page
    rows = cells(page, "source")
    assert rows[1:3] == [["quarantined", "truncated", "2"], ["mended", "palette", "4"]]
    assert rows[4] == [f"{EVIL}.png", "quarantined", "truncated", "it ends"]
    assert [row[0] for row in rows[6:]] == ["m0.png", "m1.png", "m2.png", "m3.png"]
    assert "more in results/ingest" not in page
    monkeypatch.setattr(report, "ITEMS", 3)
    page = page_of(*judged, broken)
    assert "The first 3 of 6 findings" in page
    assert "3 more in results/ingest/report.json" in page
    assert len(cells(page, "source")) == len(rows) - 3


def test_the_page_says_the_weights(broken, judged):
    tables = judged[0]
    rows = cells(page_of(*judged, broken), "weights")[1:]
    assert [row[0] for row in rows] == [c.name for c in tables.manifest.classes]
    pixels = tables.tally.pixels
    assert float(rows[0][3]) == pytest.approx(pixels.sum() / np.count_nonzero(pixels) / pixels[0], abs=0.005)
    assert rows[-1][1:] == ["0.00%", "0.0%", "–", "–", "–", "1.00"]


def test_a_sound_dataset_has_a_page_without_findings(tmp_path, clean):
    plan = [(split, i) for split, n in (("train", 8), ("val", 4), ("test", 4)) for i in range(n)]
    records = [shapes.draw(*item, seed=0, height=64, width=64, difficulty=0.5) for item in plan]
    write = {"classes": shapes.classes(), "name": "beach", "format": "shapes", "out": tmp_path, "rows_per_shard": 8}
    shards.write(records, **write)
    tables = checks.tabulate(tmp_path, clean)
    sound = [o for o in judge(tables, LIMITS, CHECKS) if o.success]
    page = page_of(tables, sound, tmp_path)
    assert "Fit for training</b>" in page
    assert 'id="findings"' not in page
    assert page.count("<figure>") == 12  # four samples of each split


def test_an_empty_dataset_has_a_page(tmp_path, clean):
    shards.write([], classes=(), name="nothing", format="folder", out=tmp_path, rows_per_shard=8)
    tables = checks.tabulate(tmp_path, clean)
    outcomes = judge(tables, LIMITS, CHECKS)
    assert "Not fit for training" in page_of(tables, outcomes, tmp_path)
    assert json.dumps(report.summarize(tables, outcomes), allow_nan=False)


def test_the_page_says_each_split_s_share_of_a_size(tmp_path, clean, monkeypatch):
    """A size that is rare in one split has its own row there too, and what has none is `other`."""
    sizes = {"train": [64, 64, 64, 96, 80, 80], "val": [72, 64, 96, 96]}
    records = [
        shapes.draw(split, i, seed=0, height=side, width=64, difficulty=0.5)
        for split, sides in sizes.items()
        for i, side in enumerate(sides)
    ]
    shards.write(records, classes=shapes.classes(), name="x", format="shapes", out=tmp_path, rows_per_shard=8)
    monkeypatch.setattr(report, "SIZES", 2)
    page = page_of(checks.tabulate(tmp_path, clean), [], tmp_path)
    rows = [[row[0], *re.findall(r"[\d.]+%", row[1]), row[2]] for row in cells(page, "sizes")]
    assert rows[-3:] == [
        ["64x64", "50.00%", "25.00%", "4"],
        ["64x96", "16.67%", "50.00%", "3"],
        ["other", "33.33%", "25.00%", "3"],
    ]


def test_object_sides_double_from_bin_to_bin(judged):
    segments = judged[0].segments[:4].assign(measured_area=[1, 3, 4, 1024], iscrowd=[False, False, False, False])
    assert report.object_sides(segments) == [
        ("1-2", 2),
        ("2-4", 1),
        ("4-8", 0),
        ("8-16", 0),
        ("16-32", 0),
        ("32-64", 1),
    ]
    assert report.object_sides(segments.assign(iscrowd=True)) == []
