"""Tiny videos of discs whose places are known, and a small untrained model."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.formats import shapes
from pipelines.inference import package
from pipelines.pixels import Pixels

SIZE = (48, 72)
COLORS = ((220, 40, 40), (40, 200, 60), (40, 60, 220))
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Film:
    """Frames, and their objects' ids: 1 is red, 2 green, 3 blue; a later one hides an earlier one."""

    images: list[np.ndarray]
    ids: list[np.ndarray]

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return zip(self.images, self.ids, strict=True)


@pytest.fixture(scope="session")
def film() -> Callable[..., Film]:
    """film([[(y, x), ...], ...], radius=7): where each object's centre is in each frame."""

    def make(places: list[list[tuple[float, float]]], *, radius: float = 7) -> Film:
        y, x = np.ogrid[: SIZE[0], : SIZE[1]]
        ground = np.random.default_rng(0).integers(90, 140, (*SIZE, 1)).astype(np.uint8).repeat(3, axis=2)
        images, ids = [], []
        for k in range(len(places[0])):
            image, labels = ground.copy(), np.zeros(SIZE, np.uint8)
            for identity, path in enumerate(places, start=1):
                cy, cx = path[k]
                disc = np.hypot(y - cy, x - cx) <= radius
                texture = ((np.floor((y - cy) / 3) + np.floor((x - cx) / 3)) % 2 * 40)[disc, None]
                image[disc] = np.clip(np.array(COLORS[identity - 1]) - texture, 0, 255)
                labels[disc] = identity
            images.append(image)
            ids.append(labels)
        return Film(images, ids)

    return make


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained panoptic model: what it finds is nonsense, how it is asked is not."""
    return _save(tmp_path_factory.mktemp("model"), "panoptic", "panoptic_deeplab")


@pytest.fixture(scope="session")
def semantic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("semantic"), "semantic", "fcn32s")


def _save(folder: Path, task: str, name: str) -> Path:
    classes = shapes.classes()
    section = {"name": name, "encoder": "test_resnet.r160_in1k", "channels": 16}
    section |= {"panoptic_deeplab": {"output_stride": 32}} if name == "panoptic_deeplab" else {}
    pixels = Pixels.of((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    torch.manual_seed(0)
    built = package.build(task, section, classes, pixels)
    described = [{"name": c.name, "color": c.color, "isthing": c.isthing} for c in classes]
    about = {"task": task, "classes": described, "mean": pixels.mean, "std": pixels.std, "model": section}
    package.save(folder, built, about)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's params.yaml, from which commands are run."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
