"""The stage as a process: its exit code, its message, and what is left in results/."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.data import shards
from tests.faults.matter import HTML
from tests.faults.sources import folder

ROOT = Path(__file__).resolve().parents[2]
CANARY = "canary-8f3a1c-of-a-secret"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder(tmp_path / "source", "folder", [f"{i:02}" for i in range(8)])
    return tmp_path


def ingest(project: Path, **dataset) -> subprocess.CompletedProcess[str]:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    splits = {"train": 0.5, "val": 0.25, "test": 0.25}
    params["dataset"] |= {"format": "folder", "root": "source", "splits": splits, **dataset}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "AWS_SECRET_ACCESS_KEY": CANARY}
    command = [sys.executable, "-m", "stages.ingest"]
    return subprocess.run(
        command, cwd=project, env=environment, text=True, capture_output=True, timeout=120, check=False
    )


def left(project: Path) -> set[str]:
    return {p.name for p in (project / "results/ingest").iterdir()}


def test_s17_quarantine_refused_and_allowed_without_secrets(project):
    """Nothing that is written or said holds a secret of the environment."""
    (project / "source/images/03.png").write_bytes(HTML)
    refused = ingest(project)
    assert refused.returncode == 2
    assert refused.stdout == ""
    said = refused.stderr[refused.stderr.index("ingest: ") :]
    assert said.splitlines() == [
        f"ingest: {project / 'source'}: 1 fault, nothing was written: 1 of 8 images cannot be used, "
        "dataset.max_rejected allows 0.00% of them",
        "  - images/03.png: not an allowed image: unknown format (allowed: PNG, JPEG, BMP, TIFF, WEBP)",
        "do: mend or remove these files, and run the stage again; results/ingest/report.json lists them all",
    ]
    assert left(project) == {"report.json"}
    allowed = ingest(project, max_rejected=0.5)
    assert allowed.returncode == 0, allowed.stderr
    assert "images 7  quarantined 1" in allowed.stdout
    report = json.loads((project / "results/ingest/report.json").read_text())
    assert [(f["item"], f["kind"]) for f in report["findings"]] == [("03", "not-an-image")]
    assert report["dataset"] == shards.read_manifest(project / "results/ingest").hash
    for done in (refused, allowed):
        assert CANARY not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    written = [*(project / "results").rglob("*"), *(project / "runs").rglob("*")]
    for path in (p for p in written if p.is_file()):
        assert CANARY.encode() not in path.read_bytes()


def test_what_stops_the_line_stops_it_in_words(project):
    (project / "source/classes.yaml").write_text("- !!python/object/apply:os.mkdir [called]\n")
    done = ingest(project, max_rejected=0.9)
    assert done.returncode == 2
    assert "the dataset as a whole cannot be used\n  - classes.yaml: cannot be read: could not determine" in done.stderr
    assert "Traceback" not in done.stderr
    assert left(project) == {"report.json"}
    assert not (project / "called").exists()


def test_d20_an_archive_is_refused(project):
    (project / "source.tar.gz").write_bytes(b"\x1f\x8b")
    done = ingest(project, root="source.tar.gz")
    assert done.returncode == 2
    assert done.stderr.endswith("source.tar.gz is an archive\ndo: unpack it and name the folder\n")
