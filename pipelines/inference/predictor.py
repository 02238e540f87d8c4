"""A model with all that is needed to use it: images in, predictions out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo
from pipelines.loading.batch import pad_images
from pipelines.models.contract import SegmentationModel
from pipelines.pixels import Pixels


class Predictor:
    """Predicts as training validated: the same normalisation, the same padding, no resizing."""

    def __init__(self, model: SegmentationModel, description: Mapping[str, Any], device: str = "cpu"):
        self.model = model.to(device).eval()
        self.description = description
        self.device = torch.device(device)
        self.pixels = Pixels.of(description["mean"], description["std"])
        self.task: str = description["task"]
        self.classes = tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in description["classes"])

    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """uint8[h, w, 3] RGB images, of any sizes -> one prediction each, of the image's own size."""
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
                raise ValueError(f"images must be uint8[h, w, 3] in RGB, got {image.dtype}{list(image.shape)}")
        if not images:
            return []
        batch, sizes = pad_images([torch.tensor(i).permute(2, 0, 1) for i in images], self.model.stride)
        with torch.inference_mode():
            return self.model.predict(self.model(self.pixels.normalise(batch.to(self.device))), sizes)
