"""Mask R-CNN: He, Gkioxari, Dollar, Girshick, ICCV 2017 (arXiv 1703.06870), on a feature pyramid (arXiv 1612.03144).

Faster R-CNN (`faster_rcnn`: its parts and its deviations are this one's too) and, for each region, a 28x28 mask per
class from 14x14 features. Anchors, proposals, sampling, box coding and the heads are torchvision's, and losses and
detections are held against its RegionProposalNetwork and RoIHeads with equal weights.

`channels` is the width of the mask head too (the paper: 256); masks and features are aligned to pixels as areas
(`regions` says why). `model.weights` may name torchvision's own detector (`published`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from pipelines.models import encoders
from pipelines.models.contract import Classes, Outputs
from pipelines.models.instance import published, regions
from pipelines.models.instance.proposals import nothing
from pipelines.models.instance.two_stage import Objects, TwoStage

CELLS = 14  # a region's features; a mask has twice as many cells


class MaskRCNN(TwoStage):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        smallest_anchor: int = 16,
    ):
        channels = channels or 256
        super().__init__(
            "mask_rcnn", classes=classes, encoder=encoder, channels=channels, smallest_anchor=smallest_anchor
        )
        self.roi.mask_head = MaskRCNNHeads(channels, (channels,) * 4, dilation=1)
        self.roi.mask_predictor = MaskRCNNPredictor(channels, channels, len(self.things) + 1)
        published.fill(self, encoder)

    def learn_masks(self, outputs: Outputs, objects: Objects) -> dict[str, Tensor]:
        masks = self._masks(outputs, objects.boxes, objects.labels)
        # Without an object the heads still see an empty batch: each of their weights gets a gradient of zeros, as
        # data-parallel training asks for.
        loss = F.binary_cross_entropy_with_logits(masks, objects.cut(2 * CELLS)) if len(masks) else nothing(masks)
        return {"mask": loss}

    def draw(self, outputs: Outputs, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        return regions.paste(self._masks(outputs, [boxes], labels).sigmoid(), boxes, *size)

    def _masks(self, outputs: Outputs, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits[n, 28, 28] of all regions, each for its own label."""
        logits: Tensor = self.roi.mask_predictor(self.roi.mask_head(self.pool(outputs, boxes, CELLS)))
        return logits[torch.arange(len(logits), device=logits.device), labels].float()
