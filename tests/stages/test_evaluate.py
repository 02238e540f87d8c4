"""The evaluate stage on a drawn dataset and an untrained model, for each task; and what it refuses."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import config, files
from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.errors import DataError
from pipelines.inference import package
from pipelines.metrics import semantic
from pipelines.pixels import Pixels
from pipelines.stage import Paths
from stages import evaluate

MODELS = {"semantic": "unet", "instance": "mask_rcnn", "panoptic": "panoptic_deeplab"}
VIEWS = {"semantic": {"semantic"}, "instance": {"instance"}, "panoptic": {"semantic", "instance", "panoptic"}}
PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    """Four small images, all of the test split."""
    folder = tmp_path_factory.mktemp("dataset")
    records = [shapes.draw("test", i, seed=1, height=64, width=64, difficulty=0.2) for i in range(4)]
    shards.write(records, classes=shapes.classes(), name="shapes", format="shapes", out=folder, rows_per_shard=3)
    return folder


@pytest.fixture
def project(tmp_path, dataset):
    """project(task) -> Paths of a project whose ingest and train are done, and its parameters."""

    def make(task: str, classes=None, **changed) -> tuple[config.Params, Paths]:
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "ingest").symlink_to(dataset)
        manifest = shards.read_manifest(dataset)
        classes = manifest.classes if classes is None else classes
        model = {"name": MODELS[task], "encoder": "resnet10t", "channels": 16}
        torch.manual_seed(0)
        description = {
            "task": task,
            "model": model,
            "classes": [asdict(c) for c in classes],
            "mean": manifest.mean,
            "std": manifest.std,
            "dataset": {"name": manifest.name, "hash": manifest.hash},
            "epoch": 1,
        }
        pixels = Pixels.of(manifest.mean, manifest.std)
        package.save(tmp_path / "results" / "train", package.build(task, model, classes, pixels), description)
        history = "epoch,train_loss,val_miou,val_pq,seconds\n0,2.5,0.1,0.1,3.0\n1,1.9,,,3.0\n2,1.5,0.2,0.2,3.0\n"
        files.write_text(tmp_path / "results" / "train" / "history.csv", history)
        out = tmp_path / "results" / "evaluate"
        out.mkdir()
        raw = config.merge(config.read(PARAMS), {"task": task, "model.name": MODELS[task], **changed})
        return config.parse(raw), Paths(root=tmp_path, out=out)

    return make


def refuse_constants(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


@pytest.mark.parametrize("task", MODELS)
def test_writes_what_it_promises(task, project, dataset):
    params, paths = project(task)
    summary = evaluate.run(params, paths)
    metrics = json.loads((paths.out / "metrics.json").read_text(), parse_constant=refuse_constants)
    assert set(metrics) == VIEWS[task] | {"dataset", "inference", "weights"}
    manifest = shards.read_manifest(dataset)
    assert metrics["dataset"] == {"hash": manifest.hash, "split": "test", "images": 4}
    headlines = {"semantic": "miou", "instance": "ap", "panoptic": "pq"}
    assert set(summary) == {headlines[view] for view in VIEWS[task]}
    assert all(0 <= metrics[view][headlines[view]] <= 1 for view in VIEWS[task])
    plots = {p.name for p in (paths.out / "plots").iterdir()}
    maps, instance = {"iou_per_class.csv", "confusion.csv"}, {"precision_recall.csv", "detection_calibration.csv"}
    always = {
        "learning_curves.csv",
        "predictions.jpg",
        "figures",
        "error_types.csv",
        "score_by_size.csv",
        "latency.csv",
    }
    expected = {
        "semantic": maps | {"calibration.csv"},
        "instance": instance,
        "panoptic": maps | instance | {"calibration.csv"},
    }[task]
    assert plots - {"detection_calibration.csv"} == (always | expected) - {"detection_calibration.csv"}
    page = (paths.out / "report.html").read_text()
    assert manifest.hash in page
    rows = (paths.out / "images.csv").read_text().splitlines()
    assert [rows[0], len(rows)] == [f"id,{headlines[task]}", 5]
    with np.load(paths.out / "images.npz", allow_pickle=False) as sums:
        assert sums["ids"].tolist() == [row.split(",")[0] for row in rows[1:]]
        counts = {name: sums[name] for name in sums if name != "ids"}
    maps, ranked = {"semantic", "boundary"}, {"detections", "detections_in", "truths", "truths_in"}
    kept = {"semantic": maps, "instance": ranked, "panoptic": maps | ranked | {"panoptic"}}
    assert kept[task] == set(counts)
    if "semantic" in counts:  # what was kept of each image makes up what was reported of all
        found = semantic.scores(counts["semantic"].sum(axis=0))
        assert found["miou"] == pytest.approx(metrics["semantic"]["miou"])
    assert len(page) < 3_000_000
    cost = json.loads((paths.out / "cost.json").read_text(), parse_constant=refuse_constants)
    assert cost["parameters"] == sum(p.numel() for p in package.load(paths.of("train")).model.parameters())
    assert cost["size_mb"] == pytest.approx((paths.of("train") / package.WEIGHTS).stat().st_size / 1e6, abs=0.05)
    assert 0 < cost["latency_ms"] <= cost["latency_p95_ms"]


def test_the_same_again_gives_the_same_bytes(project):
    params, paths = project("semantic")
    evaluate.run(params, paths)
    first = repeatable(paths.out)
    evaluate.run(params, paths)
    assert repeatable(paths.out) == first


def repeatable(folder: Path) -> dict[Path, bytes]:
    """All but what a prediction costs, which the page says as well."""
    costs = {"cost.json", "latency.csv", "latency.svg", "report.html"}
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name not in costs}


def test_refuses_a_model_of_other_classes(project):
    ours = shapes.classes()
    params, paths = project("semantic", classes=(*ours[:2], replace(ours[2], name="lawn"), *ours[3:-1]))
    with pytest.raises(DataError, match="9 classes, the dataset 10") as refused:
        evaluate.run(params, paths)
    assert refused.value.faults == (
        f"class 2: the model has lawn (stuff), the dataset {ours[2].name} (stuff)",
        f"class 9: the model has none, the dataset {ours[9].name} (thing)",
    )


def test_refuses_a_model_of_another_task(project):
    params, paths = project("semantic")
    with pytest.raises(DataError, match="does the semantic task and task is panoptic"):
        evaluate.run(params.model_copy(update={"task": "panoptic"}), paths)


def test_refuses_a_split_without_images(project):
    params, paths = project("semantic", **{"evaluate.split": "val"})
    with pytest.raises(DataError, match="the val split has no images"):
        evaluate.run(params, paths)


def test_refuses_a_damaged_history(project):
    params, paths = project("semantic")
    (paths.of("train") / "history.csv").write_text("epoch,train_loss\n0,much\n")
    with pytest.raises(DataError, match=r"history\.csv cannot be read.*much"):
        evaluate.run(params, paths)
