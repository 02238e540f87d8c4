"""The end that all semantic architectures share: a full-size score per class and pixel."""

import torch
from torch import Tensor

from pipelines.data.prediction import Prediction
from pipelines.models.contract import Outputs, PixelLoss, SegmentationModel
from pipelines.targets import Targets


class SemanticModel(SegmentationModel):
    """Its `forward` gives "semantic", the logits[b, classes, h, w] at the size of the images."""

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        return {"semantic": pixel_loss(outputs["semantic"], targets.semantic)}

    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        labels = outputs["semantic"].argmax(dim=1).to(torch.uint8).cpu().numpy()
        # Copies: a view would keep the whole batch alive for as long as one prediction of it.
        return [
            Prediction(semantic=label[:height, :width].copy())
            for label, (height, width) in zip(labels, sizes, strict=True)
        ]
