"""Each entry through the line's own stages, in a folder of its own beside one dataset; what is done stays done."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines import files
from pipelines.errors import RunError
from pipelines.leaderboard.entries import SHARED, Entry

STAGES = ("tune", "train", "evaluate")
TIMES = "seconds.json"  # written last: an entry that has it is done


def prepare(folder: Path, entry: Entry, root: Path) -> Path:
    """The dataset that all entries share: ingested and validated, unless it is there."""
    raw = {**entry.raw, "dataset": {**entry.raw["dataset"]}}
    place = Path(raw["dataset"]["root"])
    if "://" not in str(place):
        raw["dataset"]["root"] = str(root / place)
    shared = folder / f"data-{files.digest({name: raw[name] for name in SHARED})[:12]}"
    _write(shared, raw)
    for stage in ("ingest", "validate"):
        if not (shared / "results" / stage / "report.json").is_file():
            _stage(stage, shared, root)
    return shared


def run(folder: Path, entry: Entry, data: Path, root: Path) -> Path:
    """The entry's folder, with results/train and results/evaluate in it."""
    own = folder / entry.key
    if (own / TIMES).is_file():
        return own
    _write(own, entry.raw)
    for stage in ("ingest", "validate"):
        (link := own / "results" / stage).unlink(missing_ok=True)
        link.symlink_to((data / "results" / stage).resolve(), target_is_directory=True)
    seconds = {stage: _stage(stage, own, root) for stage in STAGES}
    files.write_json(own / TIMES, seconds)
    return own


def metrics(own: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((own / "results/evaluate/metrics.json").read_text(encoding="utf-8"))
    return found


def seconds(own: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((own / TIMES).read_text(encoding="utf-8"))
    return found


def _write(folder: Path, raw: Mapping[str, Any]) -> None:
    (folder / "results").mkdir(parents=True, exist_ok=True)
    files.write_text(folder / "params.yaml", yaml.safe_dump(dict(raw), sort_keys=False))


def _stage(name: str, folder: Path, root: Path) -> float:
    """Its seconds. Its runs appear in the project's own MLflow."""
    environ = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
    }
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", f"stages.{name}"], cwd=folder, env=environ, check=False)
    if done.returncode < 0 or done.returncode >= 128:
        raise KeyboardInterrupt
    if done.returncode:
        raise RunError(f"{name} ended with code {done.returncode} in {folder}; its own message stands above")
    return time.monotonic() - started
