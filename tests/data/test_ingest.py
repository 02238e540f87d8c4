"""From a source to a dataset, through the processes and through the stage."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image

from pipelines import files
from pipelines.config import Params
from pipelines.data import shards
from pipelines.data.formats import FORMATS
from pipelines.data.formats.source import Source
from pipelines.data.ingest import ingest
from pipelines.data.schema import Manifest
from pipelines.errors import DataError

ROOT = Path(__file__).resolve().parents[2]
DRAWN = {"height": 32, "width": 48, "difficulty": 0.5}


def take(out: Path, *, format: str = "folder", root: Path | None = None, workers: int = 2) -> Manifest:
    counts = {"train": 5, "val": 2, "test": 3}
    source = Source(root=root, splits=counts, seed=0, shapes=DRAWN)
    return ingest(format=format, source=source, out=out, workers=workers, rows_per_shard=2)


def content(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): files.sha256(p) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "bring your own"
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    (folder / "classes.yaml").write_text("- {name: a}\n- {name: b, isthing: true}\n")
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(folder / f"images/{i:02}.png")
        Image.fromarray(rng.integers(0, 2, (9, 7), np.uint8)).save(folder / f"masks/{i:02}.png")
    return folder


def test_the_table_has_every_format_that_can_be_configured():
    names = Params.model_fields["dataset"].annotation.model_fields["format"].annotation
    assert set(FORMATS) == set(names.__args__)


def test_the_number_of_workers_changes_no_byte(root, tmp_path):
    for workers in (1, 2):
        take(tmp_path / f"folder{workers}", root=root, workers=workers)
        take(tmp_path / f"shapes{workers}", format="shapes", workers=workers)
    for format in ("folder", "shapes"):
        first = content(tmp_path / f"{format}1")
        assert len(first) > 4
        assert first == content(tmp_path / f"{format}2")


def test_the_manifest_counts_every_image(root, tmp_path, capsys):
    manifest = take(tmp_path / "out", root=root)
    assert (manifest.name, manifest.format) == ("bring your own", "folder")
    assert sum(manifest.images.values()) == 12
    assert "ingest  12/12 images" in capsys.readouterr().err
    readers = [shards.ShardReader(tmp_path / "out", split) for split in manifest.images]
    assert sorted(record.id for reader in readers for record in reader) == [f"{i:02}" for i in range(12)]


def test_one_message_lists_all_faults_and_nothing_is_written(root, tmp_path):
    (root / "images/03.png").write_bytes(b"<html>")
    (root / "images/05.png").write_bytes((root / "images/05.png").read_bytes()[:-30])
    (root / "masks/05.png").write_bytes(b"")
    (root / "masks/07.png").unlink()
    with pytest.raises(DataError) as caught:
        take(tmp_path / "out", root=root)
    said = str(caught.value)
    assert said.startswith(f"{root}: 4 faults, nothing was written\n  - images/07.png: has no masks/07.png\n")
    for name in ("images/03.png", "images/05.png", "masks/05.png"):
        assert f"  - {name}: " in said
    assert "Traceback" not in said
    assert not (tmp_path / "out/dataset.json").exists()


def test_a_long_list_of_faults_is_cut(root, tmp_path):
    for i in range(100):
        (root / f"masks/x{i}.png").touch()
    with pytest.raises(DataError, match=r"(?s)100 faults.*  - and 80 more\ndo: ") as caught:
        take(tmp_path / "out", root=root)
    assert len(str(caught.value).splitlines()) == 23


def test_no_images_is_said(root, tmp_path):
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "masks")
    with pytest.raises(DataError, match=r"there are no images\ndo: dataset.root must hold classes.yaml, images/"):
        take(tmp_path / "out", root=root)


def project(folder: Path, **dataset) -> Path:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= dataset
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def stage(folder: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.ingest"]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_the_stage(tmp_path):
    process = stage(project(tmp_path, splits={"train": 4, "val": 1, "test": 1}, shapes=DRAWN))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    manifest = shards.read_manifest(tmp_path / "results/ingest")
    assert re.match(rf"ingest: images 6  classes {len(manifest.classes)}  hash {manifest.hash[:12]}  \(", out)
    assert manifest.images == {"train": 4, "val": 1, "test": 1}


def test_the_stage_refuses_wrong_data_in_words(root, tmp_path):
    (root / "masks/07.png").unlink()
    process = stage(project(tmp_path, format="folder", root=root.name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "  - images/07.png: has no masks/07.png\n" in err
    assert "Traceback" not in err
    assert not (tmp_path / "results/ingest").exists()


@pytest.mark.parametrize("kill", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_a_killed_stage_leaves_no_process_and_no_dataset(tmp_path, kill):
    big = {"height": 256, "width": 256, "difficulty": 1.0}
    process = stage(project(tmp_path, splits={"train": 5000, "val": 1, "test": 1}, shapes=big))
    shard = tmp_path / "results/.ingest/shards"
    deadline = time.monotonic() + 60
    while not shard.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(kill)
    process.communicate(timeout=30)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGKILL: -9}[kill]
    _, alive = psutil.wait_procs(children, timeout=20)
    assert alive == []
    assert not (tmp_path / "results/ingest").exists()
