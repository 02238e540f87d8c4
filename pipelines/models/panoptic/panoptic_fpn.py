"""Panoptic-FPN: Kirillov, Girshick, He, Dollar, CVPR 2019 (arXiv 1901.02446).

Mask R-CNN, and on the same pyramid a branch for semantics: each level brought to stride 4 by steps of a convolution,
group norm, ReLU and twofold upsampling, all added up, and a score for each class of stuff and for one more, "other",
which stands for all things. Stuff is then the branch's word and things are the instances', merged by rule (`merging`).

The pixel loss of the house knows every class. Where a thing is, its own class therefore takes the place of "other",
the branch not being asked which thing it is; elsewhere all things share it. Cross entropy is then that of the paper,
with a weight for each class if so wished, and the losses on regions can reach 0.

In the semantic view, a pixel whose "other" wins has the class of the most certain instance that covers it, however
uncertain; where none does, that of the image's most certain one. Panoptically it is void where no instance was kept.

Deviations: those of `mask_rcnn`; the branch is half as wide as the pyramid (the paper: 128 of 256). The branch is held
against the same steps spelled out, and its size against the paper's layers.
"""

import math
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.data.prediction import Instances, Prediction
from pipelines.errors import ConfigError
from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.panoptic import merging
from pipelines.targets import Targets

LEVELS = {"p2": 0, "p3": 1, "p4": 2, "p5": 3}  # of the pyramid, and how often each is scaled up
SEMANTIC = 0.5  # the loss's weight beside the instances'
GROUPS = 32
NEVER = 20.0  # how far below all other classes together the score of an impossible one lies


class Step(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, *, up: bool):
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.GroupNorm(math.gcd(GROUPS, outputs), outputs),
            nn.ReLU(inplace=True),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False) if up else nn.Identity(),
        )


class SemanticBranch(nn.Module):
    """The pyramid's levels -> scores at the stride of the finest."""

    def __init__(self, inputs: int, width: int, scores: int):
        super().__init__()
        self.steps = nn.ModuleDict(
            {
                name: nn.Sequential(*(Step(width if i else inputs, width, up=count > 0) for i in range(count or 1)))
                for name, count in LEVELS.items()
            }
        )
        self.classify = nn.Conv2d(width, scores, 1)

    def forward(self, pyramid: dict[str, Tensor]) -> Tensor:
        levels = [steps(pyramid[name]) for name, steps in self.steps.items()]
        scores: Tensor = self.classify(torch.stack(levels).sum(dim=0))
        return scores


class PanopticFPN(SegmentationModel):
    things: Tensor
    stuff: Tensor

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        min_score: float = merging.MIN_SCORE,
        max_overlap: float = merging.MAX_OVERLAP,
        min_stuff: float = merging.MIN_STUFF,
    ):
        super().__init__()
        channels = channels or 256
        if not classes.things or not classes.stuff:
            one, other = ("stuff classes", "semantic") if classes.stuff else ("things", "instance")
            raise ConfigError(
                f"model.name: panoptic_fpn tells things from stuff, and the dataset has {one} only",
                do=f"set task: {other}, and a model of it",
            )
        self.classes = classes
        self.rules = {"min_score": min_score, "max_overlap": max_overlap, "min_stuff": min_stuff}
        self.mask_rcnn = MaskRCNN(classes=classes, encoder=encoder, channels=channels)
        self.stride = self.mask_rcnn.stride
        self.branch = SemanticBranch(channels, channels // 2, len(classes.stuff) + 1)
        self.register_buffer("things", torch.tensor(classes.things), persistent=False)
        self.register_buffer("stuff", torch.tensor(classes.stuff), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """Mask R-CNN's, and "semantic": the scores of the stuff, in order, and of "other"."""
        outputs: Outputs = self.mask_rcnn(images)
        return {**outputs, "semantic": resize(self.branch(outputs), images.shape[-2:])}

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        scores = self._of_all_classes(outputs["semantic"].float(), targets.semantic)
        return {
            **self.mask_rcnn.losses(outputs, targets, pixel_loss),
            "semantic": SEMANTIC * pixel_loss(scores, targets),
        }

    def _of_all_classes(self, scores: Tensor, truth: Tensor) -> Tensor:
        """[b, stuff + 1, h, w] -> [b, classes, h, w]: "other" told apart by the truth (int64[b, h, w]), as above."""
        own = truth.unsqueeze(1) == self.things[:, None, None]
        # Low enough to have no say, and by the same distance everywhere: smoothed labels, which expect a little of
        # every class, then ask nothing of the branch.
        never = scores.logsumexp(dim=1, keepdim=True) - NEVER
        other = scores[:, -1:]
        elsewhere = torch.where(own.any(dim=1, keepdim=True), never, other - math.log(len(self.things)))
        every = scores.new_empty(len(scores), self.classes.count, *scores.shape[-2:])
        every[:, self.stuff] = scores[:, :-1]
        every[:, self.things] = torch.where(own, other, elsewhere)
        return every

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        predictions = []
        for i, (height, width) in enumerate(sizes):
            image = {name: values[i : i + 1] for name, values in outputs.items()}
            instances = cast(Instances, self.mask_rcnn.predict(image, [(height, width)])[0].instances)
            semantic = self._semantic(image["semantic"][0, :, :height, :width], instances)
            predictions.append(merging.merge(instances, semantic, stuff=self.classes.stuff, **self.rules))
        return predictions

    def _semantic(self, scores: Tensor, instances: Instances) -> np.ndarray:
        """uint8[h, w]: stuff where the branch says so, and the things of the instances where it says "other"."""
        best = scores.argmax(dim=0).cpu().numpy()
        order = np.argsort(-instances.scores, kind="stable")
        ids, taken = merging.occupy(instances.masks, order, max_overlap=1)
        uncovered = instances.labels[order[0]] if len(order) else self.classes.things[0]
        things = np.append(uncovered, instances.labels[taken])[ids]
        stuff = np.append(self.classes.stuff, 0)[best]
        semantic: np.ndarray = np.where(best == len(self.classes.stuff), things, stuff).astype(np.uint8)
        return semantic
