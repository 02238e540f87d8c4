"""The end that all semantic architectures share: a full-size score per class and pixel."""

import torch
from torch import Tensor

from pipelines.data.prediction import Prediction
from pipelines.models.contract import Outputs, PixelLoss, SegmentationModel
from pipelines.targets import Targets


class SemanticModel(SegmentationModel):
    """Its `forward` gives "semantic", the logits[b, classes, h, w] at the size of the images; in training also the
    logits of heads that only help to train, as "auxiliary", "auxiliary_2", ..."""

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        losses = {"semantic": pixel_loss(outputs["semantic"], targets)}
        helping = [pixel_loss(logits, targets) for name, logits in outputs.items() if name.startswith("auxiliary")]
        return {**losses, "auxiliary": torch.stack(helping).sum()} if helping else losses

    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        best, labels = outputs["semantic"].float().softmax(dim=1).max(dim=1)
        found = zip(labels.to(torch.uint8).cpu().numpy(), best.cpu().numpy(), sizes, strict=True)
        # Copies: a view would keep the whole batch alive for as long as one prediction of it.
        return [
            Prediction(semantic=label[:height, :width].copy(), confidence=sure[:height, :width].copy())
            for label, sure, (height, width) in found
        ]
