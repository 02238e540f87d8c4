"""Published datasets through `ingest` and `validate` as a user runs them, with the counts that their files give.

Looks for them in the folder that MASKLINE_DATA names: camvid, nuclei, coco-panoptic-sample."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pipelines import config
from pipelines.data import shards

ROOT = Path(__file__).resolve().parents[2]
DATA = os.environ.get("MASKLINE_DATA", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not DATA, reason="MASKLINE_DATA names no folder of real datasets"),
]


def run(folder: Path, format: str, root: Path, **changes) -> tuple[shards.Manifest, dict, dict]:
    """The manifest, ingest's report and validate's."""
    few = {
        "validate.min_images": {"train": 1, "val": 0, "test": 0},
        "dataset.splits": {"train": 1, "val": 0, "test": 0},
    }
    raw = config.merge(
        config.read(ROOT / "params.yaml"), {"dataset.format": format, "dataset.root": str(root), **few, **changes}
    )
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for stage in ("ingest", "validate"):
        done = subprocess.run(
            [sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    reports = [json.loads((folder / f"results/{stage}/report.json").read_text()) for stage in ("ingest", "validate")]
    return shards.read_manifest(folder / "results/ingest"), reports[0], reports[1]


def test_camvid(tmp_path):
    root = Path(DATA) / "camvid"
    manifest, report, verdict = run(tmp_path, "camvid", root, task="semantic", **{"model.name": "unet"})
    lists = {split: (root / f"{split}.txt").read_text().splitlines() for split in ("train", "val")}
    assert manifest.images == {"train": len(lists["train"]), "val": len(lists["val"]), "test": 0}
    assert (manifest.images["train"], manifest.images["val"]) == (367, 101)
    assert report["images"]["quarantined"] == 0
    counted = np.zeros(256, np.int64)
    for line in lists["train"]:
        counted += np.bincount(np.asarray(Image.open(root / line.split()[1])).ravel(), minlength=256)
    assert manifest.pixels_per_class == tuple(counted[:11].tolist())
    assert manifest.ignored_pixels == counted[11]
    assert verdict["success"]


def test_nuclei(tmp_path):
    root = Path(DATA) / "nuclei"
    manifest, report, verdict = run(tmp_path, "instance-folder", root, task="instance", **{"model.name": "mask_rcnn"})
    masks = len(list(root.glob("*/masks/*.png")))
    nothing = report["counts"].get("covers-nothing", 0)
    assert manifest.images["train"] == len(list(root.glob("*/images/*.png"))) == 502
    assert manifest.instances["train"] + nothing == masks == 22_522
    assert report["images"] == {"found": 502, "kept": 502, "mended": 502, "skipped": 0, "quarantined": 0}  # alpha
    assert verdict["success"]


def test_coco_panoptic(tmp_path):
    root, laid = Path(DATA) / "coco-panoptic-sample", tmp_path / "laid out as published"
    for kind, name in (("input_images", "val2017"), ("panoptic_examples", "annotations/panoptic_val2017")):
        shutil.copytree(root / kind, laid / name)
    shutil.copy(root / "panoptic_examples.json", laid / "annotations/panoptic_val2017.json")
    lists = laid / "splits"
    lists.mkdir()
    (lists / "train.txt").write_text("val2017/000000142238\nval2017/000000439180\n")
    manifest, report, verdict = run(tmp_path, "coco-panoptic", laid, **{"validate.min_class_pixels": 0})
    published = json.loads((root / "panoptic_examples.json").read_text())
    things = {c["id"] for c in published["categories"] if c["isthing"]}
    infos = [s for a in published["annotations"] for s in a["segments_info"]]
    assert manifest.images["train"] == 2
    assert len(manifest.classes) == 133
    assert manifest.instances["train"] == sum(s["category_id"] in things and not s["iscrowd"] for s in infos)
    area = {c["id"]: sum(s["area"] for s in infos if s["category_id"] == c["id"]) for c in published["categories"]}
    assert manifest.pixels_per_class == tuple(area[c["id"]] for c in published["categories"])
    assert report["images"]["quarantined"] == 0
    assert verdict["success"]
