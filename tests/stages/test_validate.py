import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines import config
from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.data.schema import IGNORE, Record
from pipelines.errors import DataError, ValidationFailed
from pipelines.stage import Paths
from stages import validate

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"validate.min_images": {"train": 8, "val": 4, "test": 4}, "validate.max_class_drift": 0.5}
LEFT_OUT = {"file": "images/x.png", "outcome": "quarantined", "kind": "truncated", "reason": "it ends"}


def records() -> list[Record]:
    plan = [(split, i) for split, n in (("train", 8), ("val", 4), ("test", 4)) for i in range(n)]
    return [shapes.draw(*item, seed=0, height=64, width=64, difficulty=0.5) for item in plan]


def ingested(root: Path, made: list[Record], findings: tuple[dict[str, str], ...] = ()) -> Paths:
    """As `ingest` leaves it; each of the findings is an image that it left out."""
    write = {"classes": shapes.classes(), "name": "shapes", "format": "shapes", "rows_per_shard": 8}
    manifest = shards.write(made, out=root / "results/ingest", **write)
    images = {
        "found": len(made) + len(findings),
        "kept": len(made),
        "mended": 0,
        "skipped": 0,
        "quarantined": len(findings),
    }
    said = {"outcome": "written", "dataset": manifest.hash, "images": images, "max_rejected": 0.2}
    report = {**said, "source_hashes": False, "counts": {}, "findings": findings}
    (root / "results/ingest/report.json").write_text(json.dumps(report))
    out = root / "results/.validate"
    out.mkdir(exist_ok=True)
    return Paths(root=root, out=out)


def broken() -> list[Record]:
    made = records()
    semantic = made[0].semantic.copy()
    semantic[:4] = 21
    made[0] = replace(made[0], semantic=semantic)
    made[9] = replace(made[1], id="val/copy", split="val")
    return made[:-1]


def parameters(**changes: Any) -> dict[str, Any]:
    raw = config.read(ROOT / "params.yaml")
    return config.merge(raw, {**LIMITS, **changes})


@pytest.fixture(scope="module")
def params() -> config.Params:
    return config.parse(parameters())


def test_a_sound_dataset_passes_and_clears_an_earlier_failure(tmp_path, params):
    paths = ingested(tmp_path, records())
    paths.of("validate-failed").mkdir()
    summary = validate.run(params, paths)
    assert summary["checks"] > 40
    report = json.loads((paths.out / "report.json").read_text())
    assert report["success"] is True
    assert report["dataset"] == shards.read_manifest(paths.of("ingest")).hash
    assert "Fit for training" in (paths.out / "report.html").read_text()
    assert (paths.out / "data_docs" / "index.html").is_file()
    assert not paths.of("validate-failed").exists()


def test_the_balance_is_of_the_training_split(tmp_path, params):
    made = records()
    paths = ingested(tmp_path, made)
    validate.run(params, paths)
    said = json.loads((paths.out / "balance.json").read_text())
    train = [r.semantic for r in made if r.split == "train"]
    assert said["dataset"] == shards.read_manifest(paths.of("ingest")).hash
    assert said["images"] == 8
    assert said["repeat_threshold"] == params.validate_.repeat_threshold
    assert [row["pixels"] for row in said["classes"]] == [sum(int((m == k).sum()) for m in train) for k in range(10)]
    assert [row["images"] for row in said["classes"]] == [sum(bool((m == k).any()) for m in train) for k in range(10)]


def test_a_row_says_its_own_repeat_factor(tmp_path):
    """As a sampler would find it: from balance.json and the columns of the shards, without an image."""
    paths = ingested(tmp_path, records())
    validate.run(config.parse(parameters(**{"validate.repeat_threshold": 0.9})), paths)
    said = json.loads((paths.out / "balance.json").read_text())
    factors = [row["repeat_factor"] for row in said["classes"]]
    rows = shards.ShardReader(paths.of("ingest"), "train").table("pixels").column("pixels").to_pylist()
    repeats = Counter(max([1.0, *(factors[p["value"]] for p in row if p["value"] != IGNORE)]) for row in rows)
    assert len(repeats) > 1
    assert {row["factor"]: row["images"] for row in said["repeats"]["images_by_factor"]} == repeats


def test_images_that_were_left_out_are_a_warning(tmp_path, params, capsys):
    paths = ingested(tmp_path, records(), (LEFT_OUT,))
    assert validate.run(params, paths)["warnings"] > 0
    said = capsys.readouterr().err
    assert "warning: ingest.quarantined: ingest left out 1 of 17 images (5.9%), for these faults: truncated 1" in said
    assert json.loads((paths.out / "report.json").read_text())["ingest"]["images"]["quarantined"] == 1
    assert "images/x.png" in (paths.out / "report.html").read_text()


def test_a_report_of_another_dataset_is_refused(tmp_path, params):
    paths = ingested(tmp_path, records())
    report = paths.of("ingest") / "report.json"
    earlier = report.read_text()
    ingested(tmp_path, records()[1:])
    report.write_text(earlier)
    with pytest.raises(DataError, match=r"report\.json is about the dataset [0-9a-f]{12}, and dataset\.json is"):
        validate.run(params, paths)
    report.unlink()
    with pytest.raises(DataError, match=r"report\.json is missing"):
        validate.run(params, paths)


def test_all_faults_of_a_broken_dataset_are_in_one_message(tmp_path, params):
    paths = ingested(tmp_path, broken())
    paths.of("validate").mkdir()
    (paths.of("validate") / "report.json").write_text('{"success": true}')
    with pytest.raises(ValidationFailed) as failure:
        validate.run(params, paths)
    message = str(failure.value)
    assert "class ids {21} outside 0..9, ignore 255" in message
    assert "1 image in both train and val (val/copy is train/000001)" in message
    assert "3 rows, expected at least 4" in message
    assert len(failure.value.faults) == 3
    assert "results/validate-failed/report.html" in message
    failed = paths.of("validate-failed")
    assert json.loads((failed / "report.json").read_text())["success"] is False
    assert "Not fit for training: 3 faults" in (failed / "report.html").read_text()
    assert not paths.of("validate").exists()


def test_a_dataset_that_is_gone_or_damaged_leaves_no_verdict(tmp_path, params):
    paths = ingested(tmp_path, records())
    paths.of("validate").mkdir()
    shard = next(paths.of("ingest").glob("shards/test-*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="sha256 mismatch"):
        validate.run(params, paths)
    assert not paths.of("validate").exists()
    shutil.rmtree(paths.of("ingest"))
    with pytest.raises(DataError, match=r"dataset\.json is missing"):
        validate.run(params, paths)


def test_a_broken_dataset_ends_the_process_with_2(tmp_path):
    ingested(tmp_path, broken())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(parameters()))
    ended = subprocess.run(
        [sys.executable, "-m", "stages.validate"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 2
    assert "validate: the dataset breaks 3 of" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "validate  15/15 images" in ended.stderr
    assert (tmp_path / "results/validate-failed/report.html").is_file()
    assert not (tmp_path / "results/validate").exists()
