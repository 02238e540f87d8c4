"""Tiny packages that are there in a second: one that finds what is bright, to the pixel, and networks as drawn."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines.data.schema import ClassInfo
from pipelines.inference import package
from pipelines.pixels import Pixels

LIGHTS = (
    ClassInfo(name="night", color=(20, 30, 90), isthing=False),
    ClassInfo(name="lamp", color=(240, 160, 20), isthing=False),
)
PETS = (
    ClassInfo(name="sky", color=(0, 0, 90), isthing=False),
    ClassInfo(name="cat", color=(200, 90, 0), isthing=True),
    ClassInfo(name="dog", color=(0, 90, 0), isthing=True),
)
NETWORKS = {
    "semantic": {"name": "unet", "encoder": "paper", "channels": 8},
    "panoptic": {"name": "panoptic_deeplab", "encoder": "resnet10t", "channels": 16},
}


def lights(folder: Path) -> Path:
    """Otsu's threshold: the bright pixels of an image are lamps, all others night."""
    section = {"name": "threshold", "encoder": "paper", "channels": None}
    model: Any = package.build("semantic", section, LIGHTS, Pixels.of([0.5] * 3, [0.5] * 3))
    truth = lamp(40, 40, (8, 8, 16, 16))
    model.fit([(truth, (truth[..., 0] > 128).astype(np.uint8))] * 2)
    return _saved(folder, "semantic", section, LIGHTS, model)


def network(folder: Path, task: str) -> Path:
    """Weights as drawn, with batch norms that have seen pictures: so its predictions have more than one class."""
    torch.manual_seed(0)
    model = package.build(task, NETWORKS[task], PETS, Pixels.of([0.5] * 3, [0.5] * 3))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    seen = np.stack([picture(seed) for seed in range(4)]).transpose(0, 3, 1, 2)
    model.train()(torch.tensor(seen).float() / 127.5 - 1)
    return _saved(folder, task, NETWORKS[task], PETS, model)


def _saved(folder: Path, task: str, section: dict[str, Any], classes: tuple[ClassInfo, ...], model: Any) -> Path:
    listed = [{"name": c.name, "color": list(c.color), "isthing": c.isthing} for c in classes]
    about = {"task": task, "model": section, "classes": listed, "mean": [0.5] * 3, "std": [0.5] * 3}
    package.save(folder, model, {**about, "dataset": {"name": "tiny", "hash": "d" * 64}, "parameters": {}, "epoch": 1})
    return folder


def lamp(height: int, width: int, box: tuple[int, int, int, int]) -> np.ndarray:
    """A bright rectangle (top, left, bottom, right) in the dark."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[box[0] : box[2], box[1] : box[3]] = 230
    return image


def picture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def encode(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()
