"""Every network learns eight images of CamVid by heart: what cannot is broken.

Run on the real images: MASKLINE_DATA=<the folder that holds camvid> pytest -m slow tests/models/test_memorises.py
"""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from pipelines import config, losses
from pipelines.metrics.semantic import SemanticMetrics
from pipelines.models import MODELS
from pipelines.models.contract import Classes, SegmentationModel, Targets
from pipelines.models.encoders import Choice
from pipelines.pixels import Pixels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("MASKLINE_DATA" not in os.environ, reason="MASKLINE_DATA names no folder of real datasets"),
]
PARAMS = config.read(Path(__file__).parents[2] / "params.yaml")
CLASSES = Classes(things=(), stuff=tuple(range(11)))
PIXEL_LOSS = losses.build(
    {
        "cross_entropy": {"weight": 1.0, "class_weights": "none", "label_smoothing": 0.0},
        "lovasz": {"weight": 1.0},  # the rarest class of eight images has a few dozen pixels, and counts as much as sky
    }
)
NETWORKS = [name for name, task in config.MODEL_TASKS.items() if task == "semantic" and name not in config.CLASSICAL]
STEPS = 400
SIZE = (64, 96)


@dataclass(frozen=True)
class Recipe:
    """`pixels` of CamVid's images become the 64 x 96 of the test: fewer where a network's output is coarse, since what
    is smaller than a cell of its output it cannot draw, however well it remembers."""

    pixels: tuple[int, int] = (360, 480)
    encoder: str = "resnet18"
    channels: int | None = 64
    rate: float = 2e-3


RECIPES = {
    "unet": Recipe(),
    "unetplusplus": Recipe(),
    "segnet": Recipe(encoder="paper", channels=32),
    "segformer": Recipe(encoder="paper", channels=None, rate=1e-3),
}


def eight(pixels: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8[8, 3, h, w] and int64[8, h, w], from all over the training split; cut from the middle, then resized."""
    folder = Path(os.environ["MASKLINE_DATA"]) / "camvid"
    names = sorted(path.name for path in (folder / "train").iterdir())[:: 367 // 8][:8]
    images, labels = [], []
    for name in names:
        image = cv2.cvtColor(cv2.imread(str(folder / "train" / name)), cv2.COLOR_BGR2RGB)
        label = cv2.imread(str((folder / "trainannot" / name).with_suffix(".png")), cv2.IMREAD_UNCHANGED)
        top, left = ((side - wanted) // 2 for side, wanted in zip(label.shape, pixels, strict=True))
        window = np.s_[top : top + pixels[0], left : left + pixels[1]]
        images.append(cv2.resize(image[window], SIZE[::-1], interpolation=cv2.INTER_AREA))
        labels.append(cv2.resize(label[window], SIZE[::-1], interpolation=cv2.INTER_NEAREST))
    known = np.where(np.stack(labels) < 11, labels, 255)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.from_numpy(known).long()


def miou(model: SegmentationModel, images: torch.Tensor, labels: torch.Tensor) -> float:
    metrics = SemanticMetrics([str(i) for i in range(11)])
    with torch.inference_mode():
        predictions = model.eval().predict(model(images), [SIZE] * len(images))
    for prediction, label in zip(predictions, labels, strict=True):
        metrics.update(label.numpy().astype(np.uint8), prediction.semantic)
    model.train()
    return float(metrics.compute()["miou"])


def memorise(name: str, recipe: Recipe, steps: int = STEPS) -> list[float]:
    """mIoU on the eight images after every 50 steps, until it is above 0.95."""
    torch.manual_seed(0)
    model = MODELS[name].build(
        classes=CLASSES, encoder=Choice(recipe.encoder), channels=recipe.channels, **PARAMS["model"].get(name, {})
    )
    model = model.to(memory_format=torch.channels_last).train()
    images, labels = eight(recipe.pixels)
    seen = Pixels.of((0.41, 0.42, 0.43), (0.3, 0.3, 0.3)).normalise(images)
    targets = Targets(semantic=labels, instances=[])
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=steps, pct_start=0.1)
    history = []
    for step in range(1, steps + 1):
        terms = model.losses(model(seen), targets, PIXEL_LOSS)
        optimizer.zero_grad()
        (terms["semantic"] + 0.4 * terms.get("auxiliary", torch.zeros(()))).backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            history.append(miou(model, seen, labels))
            if history[-1] > 0.95:
                break
    return history


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NETWORKS)
def test_eight_images_are_learnt_by_heart(name):
    assert memorise(name, RECIPES[name])[-1] > 0.95
