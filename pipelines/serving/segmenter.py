"""What a replica does: bytes from a stranger in, an answer out. Knows neither HTTP's nor Ray's side."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.data.prediction import Prediction
from pipelines.inference import package
from pipelines.inference.batches import batches
from pipelines.inference.segments import Found, id_map, row, segments
from pipelines.reporting.encoding import png
from pipelines.reporting.overlay import overlay
from pipelines.serving.answers import JSON, PNG, Answer, as_json
from pipelines.serving.decoding import Decoders

FORMATS = ("json", "overlay", "png")
MASKS = ("rle", "png", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """How the answer is wanted."""

    format: str = "json"  # of FORMATS: masks as JSON, a picture of them, a map of the segments' ids
    masks: str = "rle"  # of MASKS: in JSON


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Of a replica."""

    package: Path
    device: str  # auto | cpu | cuda
    decoders: int
    max_batch: int
    max_pixels: int
    min_score: float
    alpha: float


class Segmenter:
    """A model, and the processes that decode for it. Several threads may call it; `predict` one at a time."""

    def __init__(self, settings: Settings):
        self.settings = settings
        device = settings.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.predictor = package.load(settings.package, device=device)
        self.decoders = Decoders(settings.decoders, max_pixels=settings.max_pixels)

    def close(self) -> None:
        self.decoders.close()

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Of images that came together; none is changed by its neighbours."""
        order = sorted(range(len(images)), key=lambda i: images[i].shape)
        found: dict[int, Prediction] = {}
        for batch in batches(order, self.settings.max_batch, shape=lambda i: images[i].shape):
            found |= zip(batch, self.predictor.predict([images[i] for i in batch]), strict=True)
        return [found[i] for i in range(len(images))]

    def render(self, image: np.ndarray, prediction: Prediction, form: Form) -> Answer:
        found = segments(prediction, min_score=self.settings.min_score)
        if form.format == "overlay":
            return self._overlay(image, found)
        if form.format == "png":
            return Answer(media=PNG, content=png(id_map(found, image.shape[:2])))
        height, width = image.shape[:2]
        listed = [self._row(each, number, form.masks) for number, each in enumerate(found, start=1)]
        size = {"height": height, "width": width}
        return as_json({"task": self.predictor.task, "image": size, "segments": listed})

    def _overlay(self, image: np.ndarray, found: Sequence[Found]) -> Answer:
        colors = [c.color for c in self.predictor.classes]
        masks, categories = [each.mask for each in found], [each.category for each in found]
        picture = overlay(image, masks, categories, colors, alpha=self.settings.alpha)
        return Answer(media=PNG, content=png(picture))

    def _row(self, found: Found, number: int, masks: str) -> dict[str, Any]:
        listed = row(found, number, self.predictor.classes)
        if masks != "rle":
            del listed["rle"]
        if masks == "png":
            listed["png"] = base64.b64encode(png(found.mask.astype(np.uint8) * 255)).decode()
        return listed


def about(folder: Path, *, name: str, metrics: Any) -> Answer:
    """What is served, for `/model`."""
    described = package.describe(folder)
    classes = [
        {"id": i, "name": c["name"], "isthing": c["isthing"], "color": list(c["color"])}
        for i, c in enumerate(described["classes"])
    ]
    value = {
        "model": name,
        "task": described["task"],
        "architecture": described["model"]["name"],
        "encoder": described["model"]["encoder"],
        "weights": described["weights"]["sha256"],
        "dataset": described["dataset"],
        "classes": classes,
        "inference": package.registered(folder).to_json(),
        "metrics": metrics,
    }
    return Answer(media=JSON, content=json.dumps(value).encode())
