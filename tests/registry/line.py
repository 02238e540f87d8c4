"""A project whose earlier stages have run, as `register` finds it: tiny, and with scores that a test says outright."""

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import config, files
from pipelines.data.schema import ClassInfo, Record
from pipelines.data.shards import read_manifest, write
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import package
from pipelines.pixels import Pixels
from pipelines.registry.audit import Entry
from pipelines.registry.versions import Registry
from pipelines.stage import Paths
from pipelines.tracking import Server
from stages import register, rollback

REPOSITORY = Path(__file__).parents[2]
CLASSES = ("sky", "sea")
RULE = {
    "min_gain": 0.0, "max_class_drop": 0.1, "significance": {"level": 0.95, "resamples": 200}, "floors": {},
    "limits": None,
}  # fmt: skip
MODEL = {"name": "unet", "encoder": "paper", "channels": 8}


@dataclass
class Line:
    """The project."""

    root: Path
    name: str  # of the registered model: each test has its own

    def ingest(self, seed: int, names: tuple[str, ...] = CLASSES) -> None:
        classes = [ClassInfo(name=name, color=(i, i, i), isthing=False) for i, name in enumerate(names)]
        out = self.root / "results/ingest"
        write(records(seed), classes=classes, name="tiny", format="folder", out=out, rows_per_shard=8)

    def train(self, seed: int) -> str:
        """The hash of the weights."""
        torch.manual_seed(seed)
        manifest = read_manifest(self.root / "results/ingest")
        about = {
            "task": "semantic",
            "model": MODEL,
            "classes": manifest.to_json()["classes"],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "dataset": {"name": manifest.name, "hash": manifest.hash},
            "fingerprint": "f1",
            "parameters": {"seed": seed, "train": {"epochs": 2}},
            "epoch": 1,
        }
        folder = self.root / "results/train"
        package.save(folder, package.build("semantic", MODEL, manifest.classes, Pixels.of([0.5] * 3, [0.5] * 3)), about)
        files.write_text(folder / "history.csv", "epoch,train_loss,val_miou\n0,1.5,\n1,1.25,0.5\n")
        return str(package.describe(folder)["weights"]["sha256"])

    def measure(self, miou: float | None, luck: float = 0.0, **more: Any) -> None:
        """What `evaluate` would have found, said outright; of each image as well (see `images`)."""
        manifest = read_manifest(self.root / "results/ingest")
        weights = package.describe(self.root / "results/train")["weights"]["sha256"]
        evaluated = self.root / "results/evaluate"
        text = json.dumps(
            {
                "semantic": {"miou": miou, "dice": None, "iou": dict.fromkeys(CLASSES, miou)},
                "dataset": {"hash": manifest.hash, "split": "test", "images": manifest.images["test"]},
                "weights": weights,
                **more,
            }
        )
        files.write_text(evaluated / "metrics.json", text)
        given = miou if miou is not None and math.isfinite(miou) else 0.0
        images(manifest.images["test"], given, luck).write(evaluated / "images.npz")
        (evaluated / "plots").mkdir(exist_ok=True)
        Image.effect_noise((64, 48), 40).save(evaluated / "plots/predictions.jpg")
        files.write_text(evaluated / "report.html", "<!doctype html><title>report</title>")

    def register(self, **settings: Any) -> dict[str, Any]:
        """decision.json"""
        out = self.root / "results/register"
        out.mkdir(parents=True, exist_ok=True)
        register.run(params(self.name, **settings), Paths(root=self.root, out=out))
        return dict(json.loads((out / "decision.json").read_text()))

    def rollback(self, why: str, to: int | None = None) -> dict[str, Any]:
        """The stage's summary."""
        out = self.root / "results/register"
        return dict(rollback.run(params(self.name), Paths(root=self.root, out=out), why=why, to=to))

    def add(self, seed: int, miou: float | None, **settings: Any) -> dict[str, Any]:
        self.train(seed)
        self.measure(miou)
        return self.register(**settings)

    @property
    def server(self) -> Server:
        return Server(self.root)

    @property
    def model(self) -> str:
        return f"it-{self.name}-semantic"

    @property
    def registry(self) -> Registry:
        return Registry(self.server, self.model, self.root)

    def versions(self) -> dict[int, Any]:
        return {int(v.version): v for v in self.server.search_model_versions(f"name = '{self.model}'")}

    def aliases(self) -> dict[str, int]:
        return self.registry.aliases()

    def decisions(self) -> list[Entry]:
        return self.registry.audit.entries()

    def page(self) -> str:
        return (self.root / "results/register/audit.html").read_text()


def begun(root: Path, test: str) -> Line:
    """Each test has a model of its own name."""
    made = Line(root, re.sub(r"[^a-z0-9]+", "-", test.removeprefix("test_")).strip("-"))
    made.ingest(0)
    return made


def images(count: int, miou: float, luck: float = 0.0) -> PerImage:
    """Sums by image that make this mIoU, the same of both classes: of so many pixels that rounding is not seen.

    Some images are easier than others, for every model; with `luck` half of them gain it and the others lose it.
    """
    pixels, place = 10**12, np.arange(count)
    share = miou + 0.02 * (place - (count - 1) / 2) / count + luck * (-1.0) ** place
    right = np.rint(share * pixels).astype(np.int64)
    sums = np.stack([right, np.full(count, pixels), right], axis=-1)  # what is predicted is right: IoU is right / true
    return PerImage(
        task="semantic",
        things=(),
        ids=tuple(map(str, range(count))),
        sums={"semantic": np.repeat(sums[:, None], len(CLASSES), axis=1)},
        instance=None,
    )


def records(seed: int) -> Iterator[Record]:
    random = np.random.default_rng(seed)
    for i in range(8):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        yield Record(
            id=str(i), split="test", image=png(pixels), format="png", height=64, width=64,
            semantic=(pixels[..., 0] > 128 + 8 * i).astype(np.uint8),
        )  # fmt: skip


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def raw(name: str, **settings: Any) -> dict[str, Any]:
    """params.yaml."""
    whole = config.read(REPOSITORY / "params.yaml")
    section = {"name": f"it-{name}", **RULE, "floors": {"semantic.miou": 0.1, "panoptic.pq": 0.1}, **settings}
    cheap = {**whole["evaluate"], "resamples": 50, "workers": 0}
    return {**whole, "task": "semantic", "model": {**whole["model"], **MODEL}, "evaluate": cheap, "register": section}


def params(name: str, **settings: Any) -> config.Params:
    return config.parse(raw(name, **settings))


def verdict(decision: dict[str, Any]) -> tuple[int, bool, str, dict[str, int]]:
    said = decision["decision"]
    return decision["version"], said["promoted"], said["rule"], decision["aliases"]["after"]
