"""Every network learns a few images by heart: what cannot is broken.

Semantic ones eight of CamVid, instance ones four of the nuclei (BBBC038, stage1_train), panoptic ones four of shapes:
    MASKLINE_DATA=<the folder that holds camvid and nuclei> pytest -m slow tests/models/test_memorises.py
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from pipelines import config, losses
from pipelines.data import panoptic, rle
from pipelines.data.formats import shapes
from pipelines.data.prediction import Prediction
from pipelines.data.schema import IGNORE, Segment
from pipelines.loading.batch import decode
from pipelines.metrics.instance import InstanceMetrics
from pipelines.metrics.panoptic import PanopticMetrics
from pipelines.metrics.semantic import SemanticMetrics
from pipelines.models import MODELS
from pipelines.models.contract import Classes, InstanceTargets, SegmentationModel, Targets
from pipelines.models.encoders import Choice
from pipelines.pixels import Pixels

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
published = pytest.mark.skipif("MASKLINE_DATA" not in os.environ, reason="MASKLINE_DATA names no folder of datasets")
PARAMS = config.read(Path(__file__).parents[2] / "params.yaml")
NETWORKS = {
    task: [name for name, its in config.MODEL_TASKS.items() if its == task and name not in config.CLASSICAL]
    for task in ("semantic", "instance", "panoptic")
}
SIZE = (64, 96)  # of CamVid's windows as they are learned
SIDE = 128  # of the nuclei's


@dataclass(frozen=True)
class Recipe:
    """`pixels`: of CamVid's images that become the 64 x 96 of the test, and `side`: of the nuclei's that become its
    128 x 128. Fewer where a network's output is coarse: what is smaller than a cell of its output it cannot draw,
    however well it remembers."""

    encoder: str = "test_resnet"
    channels: int | None = 64
    rate: float = 2e-3
    steps: int = 400
    pixels: tuple[int, int] = (16, 24)
    side: int = 128
    options: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "fcn32s": Recipe(channels=128, pixels=(8, 12)),
    "fcn16s": Recipe(channels=128, pixels=(12, 18)),
    "fcn8s": Recipe(channels=128),
    "unet": Recipe(pixels=(32, 48)),
    "unetplusplus": Recipe(channels=128, pixels=(32, 48)),
    "segnet": Recipe(encoder="paper", channels=16, rate=5e-3, pixels=(32, 48)),
    "deeplabv1": Recipe(channels=128, pixels=(8, 12)),
    "ddrnet23_slim": Recipe(encoder="paper", channels=32, pixels=(8, 12)),
    "lraspp": Recipe(encoder="paper", channels=None, pixels=(8, 12)),
    "bisenet": Recipe(pixels=(8, 12)),
    "pspnet": Recipe(pixels=(8, 12)),
    "deeplabv2": Recipe(pixels=(8, 12)),
    "deeplabv3": Recipe(pixels=(8, 12), options={"output_stride": 8}),
    "fcis": Recipe(side=64, steps=1200),
    "blendmask": Recipe(side=64),
    "polarmask": Recipe(side=64),
    "solo": Recipe(side=64),
    "solov2": Recipe(channels=32, side=64),
    "rdsnet": Recipe(channels=32, rate=1e-3),
    "faster_rcnn": Recipe(channels=32),
    "mask_rcnn": Recipe(channels=32),
    "pointrend": Recipe(channels=32),
    "yolact": Recipe(channels=32),
    "mask2former": Recipe(rate=5e-4),
    "mask2former_instance": Recipe(rate=5e-4),
    "mask2former_semantic": Recipe(rate=5e-4),
    "segformer": Recipe(encoder="paper", channels=64, rate=1e-3, pixels=(8, 12)),
}


def pixel_loss(counts: np.ndarray) -> losses.WeightedSum:
    """Cross-entropy weighed by class, and Dice: the rarest class has a few dozen pixels, and counts as much as sky."""
    seen = counts > 0
    weights = np.where(seen, np.median(counts[seen]) / np.maximum(counts, 1), 0.0)
    terms = {
        "cross_entropy": {"weight": 1.0, "class_weights": "median_frequency", "label_smoothing": 0.0},
        "dice": {"weight": 1.0, "squared": False},
    }
    return losses.build(terms, {"median_frequency": weights.tolist()})


@dataclass(frozen=True)
class Task:
    images: Tensor  # uint8[b, 3, h, w]
    targets: Targets
    classes: Classes
    score: Callable[[list[Prediction]], float]


def memorise(name: str, task: Task, recipe: Recipe, *, enough: float) -> list[float]:
    """The score after every 50 steps, until it is enough."""
    torch.manual_seed(0)
    options = {**PARAMS["model"].get(name, {}), **recipe.options}
    model: SegmentationModel = MODELS[name].build(
        classes=task.classes, encoder=Choice(recipe.encoder), channels=recipe.channels, **options
    )
    model = model.to(memory_format=torch.channels_last).train()
    seen = Pixels.of((0.41, 0.42, 0.43), (0.3, 0.3, 0.3)).normalise(task.images)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.rate, total_steps=recipe.steps, pct_start=0.1)
    known = task.targets.semantic[task.targets.semantic != IGNORE]
    on_pixels = pixel_loss(torch.bincount(known, minlength=task.classes.count).numpy())
    weights, history = PARAMS["loss"]["terms"], []
    for step in range(1, recipe.steps + 1):
        terms = model.losses(model(seen), task.targets, on_pixels)
        optimizer.zero_grad()
        sum(weights[key] * term for key, term in terms.items()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            with torch.inference_mode():
                outputs = model.eval()(seen)
                history.append(task.score(model.predict(outputs, [tuple(seen.shape[-2:])] * len(seen))))
            model.train()
            if history[-1] > enough:
                break
    return history


def camvid(pixels: tuple[int, int]) -> Task:
    """Eight images from all over the training split; cut from the middle, then resized."""
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
    known = np.where(np.stack(labels) < 11, labels, IGNORE).astype(np.uint8)

    def score(predictions: list[Prediction]) -> float:
        metrics = SemanticMetrics([str(i) for i in range(11)])
        for label, prediction in zip(known, predictions, strict=True):
            metrics.update(label, prediction.semantic)
        return float(metrics.compute()["miou"])

    targets = Targets(semantic=torch.from_numpy(known).long(), instances=[instances([], SIZE)] * len(images))
    return Task(tensor(images), targets, Classes(things=(), stuff=tuple(range(11))), score)


def nuclei(side: int) -> Task:
    """The middle of the first four images of 256 x 256 with several nuclei there, enlarged to 128 x 128."""
    images, segments = [], []
    for folder in sorted((Path(os.environ["MASKLINE_DATA"]) / "nuclei").iterdir()):
        image = cv2.imread(str(next((folder / "images").iterdir())))
        if image.shape[:2] != (256, 256):
            continue
        middle = np.s_[128 - side // 2 : 128 + side // 2, 128 - side // 2 : 128 + side // 2]
        masks = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE)[middle] for p in sorted((folder / "masks").iterdir())]
        masks = [cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST) > 0 for mask in masks]
        masks = [mask for mask in masks if mask.sum() >= 16]  # less of one at the edge says nothing
        if len(masks) >= side // 12:
            image = cv2.resize(image[middle], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
            images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            segments.append([segment_of(mask) for mask in masks])
        if len(images) == 4:
            break

    def score(predictions: list[Prediction]) -> float:
        metrics = InstanceMetrics(["background", "nucleus"], things=[1])
        for truth, prediction in zip(segments, predictions, strict=True):
            metrics.update(truth, (SIDE, SIDE), prediction.instances)
        return float(metrics.compute()["ap50"])

    semantic = torch.zeros(4, SIDE, SIDE, dtype=torch.int64)
    targets = Targets(semantic=semantic, instances=[instances(s, (SIDE, SIDE)) for s in segments])
    return Task(tensor(images), targets, Classes(things=(1,), stuff=(0,)), score)


def drawn() -> Task:
    """Four scenes of shapes."""
    records = [shapes.draw("train", i, seed=0, height=SIDE, width=SIDE, difficulty=0.2) for i in range(4)]
    table = shapes.classes()
    things = tuple(i for i, c in enumerate(table) if c.isthing)

    def score(predictions: list[Prediction]) -> float:
        metrics = PanopticMetrics([c.name for c in table], things=things)
        for record, prediction in zip(records, predictions, strict=True):
            metrics.update(panoptic.truth(record, things), prediction.panoptic)
        return float(metrics.compute()["pq"])

    semantic = torch.stack([torch.from_numpy(r.semantic.astype(np.int64)) for r in records])
    targets = Targets(semantic=semantic, instances=[instances(r.segments, (SIDE, SIDE)) for r in records])
    stuff = tuple(i for i in range(len(table)) if i not in things)
    return Task(tensor([decode(r) for r in records]), targets, Classes(things=things, stuff=stuff), score)


def tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def segment_of(mask: np.ndarray) -> Segment:
    return Segment(category=1, bbox=rle.bbox(mask), area=int(mask.sum()), iscrowd=False, counts=rle.encode(mask))


def instances(segments: list[Segment], size: tuple[int, int]) -> InstanceTargets:
    boxes = np.array([s.bbox for s in segments], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return InstanceTargets(
        masks=torch.from_numpy(np.array([rle.decode(s.counts, *size) for s in segments], bool).reshape(-1, *size)),
        labels=torch.tensor([s.category for s in segments], dtype=torch.int64),
        boxes=torch.from_numpy(boxes),
        iscrowd=torch.tensor([s.iscrowd for s in segments], dtype=torch.bool),
    )


@published
@pytest.mark.parametrize("name", NETWORKS["semantic"])
def test_eight_streets_are_learnt_by_heart(name):
    recipe = RECIPES.get(name, Recipe())
    assert memorise(name, camvid(recipe.pixels), recipe, enough=0.95)[-1] > 0.95


@published
@pytest.mark.parametrize("name", NETWORKS["instance"])
def test_four_images_of_nuclei_are_learnt_by_heart(name):
    recipe = RECIPES.get(name, Recipe())
    assert memorise(name, nuclei(recipe.side), recipe, enough=0.9)[-1] > 0.9


@pytest.mark.parametrize("name", NETWORKS["panoptic"])
def test_four_scenes_are_learnt_by_heart(name):
    assert memorise(name, drawn(), RECIPES.get(name, Recipe()), enough=0.9)[-1] > 0.9
