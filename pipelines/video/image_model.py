"""What a trained image model says of a frame: segments, scored instances, and its encoder's features."""

from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from pipelines.data.prediction import Instances
from pipelines.errors import ConfigError
from pipelines.inference import package
from pipelines.inference.predictor import Predictor
from pipelines.video.features import Features


def load(folder: Path) -> Predictor:
    """The package in a folder, on a GPU where there is one."""
    return package.load(folder, device="cuda" if torch.cuda.is_available() else "cpu")


def features(predictor: Predictor, stride: int) -> Features:
    return Features.of(predictor, stride=stride)


def instances(predictor: Predictor, image: np.ndarray) -> Instances:
    """Scored ones; a model of pixels' classes has none."""
    found = predictor.predict([image])[0].instances
    if found is None:
        raise ConfigError(
            f"{predictor.description['model']['name']} gives no instances, which are what is tracked",
            do="train a model of task instance or panoptic",
        )
    return found


def segments(predictor: Predictor, image: np.ndarray) -> list[np.ndarray]:
    """bool[h, w] of each: instances, or the connected parts of each class of things."""
    found = predictor.predict([image])[0]
    if found.instances is not None:
        return list(found.instances.masks)
    semantic = found.semantic if found.semantic is not None else np.zeros(image.shape[:2], np.uint8)
    parts = []
    for label, each in enumerate(predictor.classes):
        if each.isthing:
            numbered, count = ndimage.label(semantic == label)
            parts += [numbered == k for k in range(1, count + 1)]
    return parts
