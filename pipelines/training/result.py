"""What training leaves behind: the best model as a package, and the history of its epochs."""

import csv
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.data.shards import read_manifest
from pipelines.errors import RunError
from pipelines.inference import package
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import TIMES, Job, Row
from pipelines.training.rebuild import describe, rebuild
from pipelines.training.teacher import identified
from pipelines.training.validation import Validations

HISTORY = "history.csv"
RESULT = "result"  # in a job's state folder


def take(state: Path, out: Path) -> dict[str, Any]:
    """Move a finished job's result to where the stage wants it; returns its description."""
    for path in (state / RESULT).iterdir():
        path.replace(out / path.name)
    return package.describe(out)


def write(job: Job, *, raw: dict[str, Any], fingerprint: str) -> None:
    """The best epoch by the task's primary metric on the validation split."""
    params, manifest = job.params, read_manifest(job.data)
    checkpoints = Checkpoints.of(job.state)
    if (last := checkpoints.last()) is None:
        raise RunError(f"no checkpoint in {job.state} can be read")
    known = Validations(job.state, last["validations"], keeps=False)
    if (best := checkpoints.best(known.scores(params.task))) is None:
        raise RunError(f"no checkpoint in {job.state} that was validated can be read")
    model, recorded = rebuild(params, manifest, best), identified(raw)
    epoch = best["position"]["epoch"] - 1
    out = job.state / RESULT
    write_history(out / HISTORY, known.merged(last["position"]["rows"]))
    package.save(
        out,
        model,
        {
            **describe(params.task, manifest),
            "model": params.model.model_dump(exclude={"weights"}),
            "dataset": {"name": manifest.name, "hash": manifest.hash},
            "fingerprint": fingerprint,
            "parameters": {name: recorded[name] for name in ("task", "seed", "dataset", "model", "loss", "train")},
            "epoch": epoch,
            "metrics": known.rows[epoch],
        },
    )


def write_history(path: Path, rows: list[Row]) -> None:
    """Without the times (MLflow has them): the same training leaves the same file."""
    fields = {name: None for row in rows for name in row if name not in TIMES}
    with files.replacing(path) as file:
        writer = csv.DictWriter(file, fieldnames=list(fields), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
