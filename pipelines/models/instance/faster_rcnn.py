"""Faster R-CNN: Ren, He, Girshick, Sun, NeurIPS 2015 (arXiv 1506.01497), on a feature pyramid (arXiv 1612.03144).

A pyramid p2..p6 over the encoder; a region proposal network on all its levels (`proposals`); for each region a class
and a box from 7x7 features (`two_stage`). It finds boxes: its masks are these boxes, filled, and so its box metrics are
the ones that count, and those of masks say what a box alone is worth.

Deviations: any timm encoder, none of it frozen; `channels` is the width of the pyramid and a quarter of the box head's
(the paper: 256 and 1024); images are taken as they come, not resized to a short side of 800, and so anchors of 16 to
256 pixels instead of 32 to 512, and each pyramid level for regions half as large (`smallest_anchor: 32` is the
paper's); per image 500 proposals in training and 300 in use instead of 2000 and 1000, and 128 regions to learn from
instead of 512, so that it can be trained without a GPU; features are aligned to pixels as areas (`regions` says why).

Held against torchvision's fasterrcnn_resnet50_fpn: its parameters, and its outputs up to the alignment. `model.weights`
may name that model's weights (`published`). Sampling draws from torch's global generator, so that a seed fixes it.
"""

from torch import Tensor

from pipelines.models import encoders
from pipelines.models.contract import Classes, Outputs
from pipelines.models.instance import published, regions
from pipelines.models.instance.two_stage import Objects, TwoStage


class FasterRCNN(TwoStage):
    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        smallest_anchor: int = 16,
    ):
        super().__init__(
            "faster_rcnn", classes=classes, encoder=encoder, channels=channels or 256, smallest_anchor=smallest_anchor
        )
        published.fill(self, encoder)

    def learn_masks(self, outputs: Outputs, objects: Objects) -> dict[str, Tensor]:
        return {}

    def draw(self, outputs: Outputs, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        return regions.filled(boxes, *size)
