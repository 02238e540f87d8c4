"""Two projects side by side, from the command line; and what it refuses."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from pipelines import files
from pipelines.data import shards
from pipelines.data.formats import shapes
from pipelines.evaluation.evaluator import Detail, score
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import package
from pipelines.pixels import Pixels
from pipelines.reporting import compare
from tests.reporting.test_report import Page

MODEL = {"name": "unet", "encoder": "paper", "channels": 8}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two untrained models on the same three images."""
    roots = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    drawn = [shapes.draw("test", i, seed=1, height=48, width=48, difficulty=0.2) for i in range(3)]
    for seed, root in enumerate(roots):
        data = root / "results/ingest"
        shards.write(drawn, classes=shapes.classes(), name="shapes", format="shapes", out=data, rows_per_shard=3)
        manifest = shards.read_manifest(data)
        torch.manual_seed(seed)
        pixels = Pixels.of(manifest.mean, manifest.std)
        about = {
            "task": "semantic",
            "model": MODEL,
            "classes": [asdict(c) for c in manifest.classes],
            "mean": manifest.mean,
            "std": manifest.std,
            "dataset": {"name": manifest.name, "hash": manifest.hash},
            "epoch": 1,
        }
        package.save(root / "results/train", package.build("semantic", MODEL, manifest.classes, pixels), about)
        found = score(
            package.load(root / "results/train"),
            drawn,
            batch_size=3,
            detail=Detail(boundary=0.02, edge=0.0, resamples=20, seed=0),
        )
        PerImage.of(found, [record.id for record in drawn]).write(root / "results/evaluate/images.npz")
        dataset = {"hash": manifest.hash, "split": "test", "images": 3}
        files.write_json(root / "results/evaluate/metrics.json", {**found.compute(), "dataset": dataset})
    return roots


def test_two_projects_give_a_page(projects, tmp_path, capsys):
    first, second = projects
    assert compare.main([str(first), str(second), "--out", str(tmp_path / "page.html")]) == 0
    assert str(tmp_path / "page.html") in capsys.readouterr().out
    text = Page((tmp_path / "page.html").read_text()).text
    said = [json.loads((root / "results/evaluate/metrics.json").read_text())["semantic"]["miou"] for root in projects]
    assert f"{said[1] - said[0]:+.3f}" in text
    assert all(name in text for name in (first.name, second.name, "unet", "Both on"))


def test_what_does_not_compare_is_refused(projects, tmp_path, capsys):
    first, second = projects
    assert compare.main([str(first), str(tmp_path)]) == 2
    assert "no trained model" in capsys.readouterr().err
    path = second / "results/evaluate/metrics.json"
    kept = path.read_text()
    try:
        files.write_json(path, {**json.loads(kept), "dataset": {"hash": "0" * 64, "split": "test", "images": 3}})
        assert compare.main([str(first), str(second)]) == 2
        assert "measured on different images" in capsys.readouterr().err
        files.write_text(path, "{}")
        assert compare.main([str(first), str(second)]) == 2
        assert "metrics.json is damaged" in capsys.readouterr().err
        files.remove(path)
        assert compare.main([str(first), str(second)]) == 2
        assert "metrics.json is missing" in capsys.readouterr().err
    finally:
        files.write_text(path, kept)
