"""What training leaves behind is the epoch that did best, and what it says of itself is so."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import config
from pipelines.data.shards import ShardReader, read_manifest
from pipelines.errors import RunError
from pipelines.evaluation.evaluator import evaluate
from pipelines.inference import package
from pipelines.training import result
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import TIMES, Group, Job
from pipelines.training.loop import fit
from pipelines.training.validation import Validations


@pytest.fixture
def trained(dataset: Path, small: Callable[..., dict[str, Any]], tmp_path: Path) -> tuple[Job, dict[str, Any]]:
    raw = small("semantic", {"train.epochs": 4, "train.learning_rate": 0.02})
    job = Job(params=config.parse(raw), data=dataset, state=tmp_path / "state")
    fit(job, Group())
    checkpoints = Checkpoints(job.state / "checkpoints")
    spoilt = checkpoints.last()  # the last epoch is to be the worst
    spoilt["model"] = {name: torch.zeros_like(value) for name, value in spoilt["model"].items()}
    position = spoilt["position"]
    position["rows"].append({**position["rows"][-1], "epoch": 4})
    checkpoints.save({**spoilt, "position": {**position, "epoch": 5}}, step=position["step"] + 1, epoch=4)
    Validations(job.state, {}, keeps=True).add(4, {"val_miou": 0.0})
    return job, raw


def scores_of(job: Job) -> dict[int, float]:
    return Validations(job.state, {}, keeps=False).scores("semantic")


def test_the_package_is_the_best_epoch_and_scores_what_it_says(trained, dataset, tmp_path):
    job, raw = trained
    result.write(job, raw=raw, fingerprint="f")
    out = tmp_path / "out"
    out.mkdir()
    description = result.take(job.state, out)
    assert sorted(p.name for p in out.iterdir()) == ["history.csv", "model.json", "model.safetensors"]

    with (out / "history.csv").open() as file:
        history = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    rows = Checkpoints(job.state / "checkpoints").last()["position"]["rows"]
    measured = Validations(job.state, {}, keeps=False).rows
    assert history == [{k: v for k, v in row.items() if k not in TIMES} | measured[i] for i, row in enumerate(rows)]
    scores = [row["val_miou"] for row in history]
    assert len(scores) == 5
    assert description["epoch"] == scores.index(max(scores))
    assert description["metrics"] == {"val_miou": max(scores)}

    predictor = package.load(out)
    found = evaluate(predictor, ShardReader(dataset, "val"), batch_size=3)
    assert found["semantic"]["miou"] == max(scores)
    sections = ("task", "seed", "dataset", "model", "loss", "train")
    assert description["parameters"] == {name: raw[name] for name in sections}
    assert description["fingerprint"] == "f"
    assert description["dataset"] == {"name": "shapes", "hash": read_manifest(dataset).hash}
    assert "weights" not in description["model"]


def test_a_damaged_best_gives_way_to_the_next(trained):
    job, raw = trained
    checkpoints, scores = Checkpoints(job.state / "checkpoints"), scores_of(job)
    best = max(checkpoints.entries(), key=lambda entry: scores[entry.epoch])
    (best.path / "state.pt").write_bytes(b"")
    others = [entry for entry in checkpoints.entries() if entry.epoch != best.epoch]
    result.write(job, raw=raw, fingerprint="f")
    assert package.describe(job.state / result.RESULT)["epoch"] == max(others, key=lambda e: scores[e.epoch]).epoch
    for entry in others:
        (entry.path / "state.pt").unlink()
    with pytest.raises(RunError, match=r"no checkpoint in .* can be read"):
        result.write(job, raw=raw, fingerprint="f")


def test_weights_are_those_of_the_checkpoint_bit_for_bit(trained, tmp_path):
    job, raw = trained
    result.write(job, raw=raw, fingerprint="f")
    best = Checkpoints(job.state / "checkpoints").best(scores_of(job))
    loaded = package.load(job.state / result.RESULT).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in best["model"].items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_model_without_weights_is_fitted_once_and_is_a_package_like_any(dataset, small, tmp_path, precision):
    raw = small("semantic", {"model.name": "superpixels", "train.precision": precision})
    job = Job(params=config.parse(raw), data=dataset, state=tmp_path / "state")
    rows = fit(job, Group())
    assert [sorted(row) for row in rows] == [["epoch", "seconds", "val_miou"]]
    assert fit(job, Group()) == rows, "what is finished has nothing left to do"

    result.write(job, raw=raw, fingerprint="f")
    out = tmp_path / "out"
    out.mkdir()
    description = result.take(job.state, out)
    assert (out / "history.csv").read_text().splitlines() == ["epoch,val_miou", f"0,{rows[0]['val_miou']}"]
    assert description["metrics"] == {"val_miou": rows[0]["val_miou"]}
    found = evaluate(package.load(out), ShardReader(dataset, "val"), batch_size=3)
    assert found["semantic"]["miou"] == rows[0]["val_miou"] > 0.2
