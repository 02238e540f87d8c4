"""A model with all that is needed to use it: images in, predictions out."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch

from pipelines.data.prediction import Prediction
from pipelines.data.schema import ClassInfo
from pipelines.inference.averaging import probabilities
from pipelines.inference.options import Inference
from pipelines.loading.batch import pad_images
from pipelines.models.contract import SegmentationModel
from pipelines.pixels import Pixels

PLAIN = Inference()


class Predictor:
    """Predicts as training validated (the same normalisation and padding, no resizing), unless asked otherwise."""

    def __init__(
        self,
        model: SegmentationModel,
        description: Mapping[str, Any],
        device: str = "cpu",
        inference: Inference = PLAIN,
    ):
        self.model, self.inference = model.to(device).eval(), inference
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
        tensors = [torch.tensor(i).permute(2, 0, 1) for i in images]
        with torch.no_grad():  # not inference_mode: weights that FSDP gathers in it could not be trained afterwards
            if not self.inference.plain:
                return list(self._elaborately(tensors))
            batch, sizes = pad_images(tensors, self.model.stride)
            return self.model.predict(self.model(self.pixels.normalise(batch.to(self.device))), sizes)

    def _elaborately(self, images: Sequence[torch.Tensor]) -> Iterator[Prediction]:
        """Neighbours of one size at a time: windows, scales and mirrored borders are those of the image, not of a
        batch."""
        for size, group in groupby(images, key=lambda image: (image.shape[-2], image.shape[-1])):
            batch = torch.stack(list(group)).to(self.device)
            found = probabilities(self.model, batch, self.pixels, self.inference)
            yield from self.model.predict({"semantic": found.log()}, [size] * len(batch))
