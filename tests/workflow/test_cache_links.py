"""A dataset that DVC has brought from its cache is one that ingest reads, wherever the cache lies."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipelines.data.tree import Files, Tree

ROOT = Path(__file__).resolve().parents[2]
OTHER_DISK = Path("/dev/shm")  # noqa: S108


def test_a_cache_on_another_disk_leads_no_file_out_of_the_dataset(tmp_path):
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip(f"{OTHER_DISK} is no other disk than {tmp_path}")
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as cache:
        (tmp_path / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc/config", tmp_path / ".dvc/config")
        (tmp_path / ".dvc/config.local").write_text(f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n")
        (tmp_path / "data/images").mkdir(parents=True)
        (tmp_path / "data/images/a.png").write_bytes(b"pixels")
        dvc(tmp_path, "add", "data")
        shutil.rmtree(tmp_path / "data")
        dvc(tmp_path, "checkout")
        assert Tree(str(tmp_path / "data")).under("images") == ["images/a.png"]
        assert Files(str(tmp_path / "data")).read("images/a.png") == b"pixels"


def dvc(root: Path, *command: str) -> None:
    alone = {**os.environ, "DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(root / "site")}
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *command],
        cwd=root,
        env=alone,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
