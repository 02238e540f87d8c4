"""UPSNet: Xiong, Liao, Zhao, Hu, Bai, Yumer, Urtasun, CVPR 2019 (arXiv 1901.03784).

Mask R-CNN, and on the same pyramid a head for semantics: three deformable convolutions, shared by all levels, which
are then brought to stride 4, joined, and scored for every class. A panoptic head without weights makes one softmax of
both: scores of the stuff; of each instance, its class's scores within its box plus its mask's logits; and of the
unknown, the best score of a thing less that of the instances, which takes what the instances missed. To teach it that,
three of ten true instances are kept from it in training.

In use the instances are thinned before (overlapping boxes, uncertain ones, masks that repeat others of their class)
and corrected afterwards: one that the semantic head takes for mostly one class of stuff becomes that stuff.

Deviations: those of `mask_rcnn`; a level has half the pyramid's width (the paper: 128 of 256), and group norm behind
each deformable layer, which the authors' code has as an option; the pixel loss is what params.yaml names, on the image
as well as on the regions of true instances; pixels of crowds teach the panoptic head nothing; where no instance is, the
best thing's score alone is that of the unknown; small stuff is a share of the image, as `merging` says. The panoptic
head is held against the paper's equations, one pixel and one instance at a time, the semantic head against its steps
spelled out, and its size against the authors' layers.
"""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, roi_align

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance import truths
from pipelines.models.instance.mask_rcnn import MaskRCNN
from pipelines.models.panoptic import merging
from pipelines.models.panoptic.panoptic_head import CELLS, VOID, panoptic_scores, panoptic_truth, split, thin
from pipelines.targets import Targets

LEVELS = ("p2", "p3", "p4", "p5")
STEP = 4  # pixels between the scores
SEMANTIC, REGION, PANOPTIC = 0.2, 0.2, 0.1  # the losses' weights beside the instances', as the authors' on COCO
KEPT = 0.7  # of the true instances, which the panoptic head is shown
GROUPS = 32
MIN_SCORE = 0.6
MAX_OVERLAP = 0.3  # the share of a mask that may be taken by others of its class
BAND = 2**25  # values of the panoptic head at a time


class Deformable(nn.Module):
    """A 3x3 convolution that looks where it has learnt to (arXiv 1703.06211); group norm, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.offset = nn.Conv2d(inputs, 2 * 9, 3, padding=1)
        self.conv = DeformConv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs)
        for zero in self.offset.parameters():
            nn.init.zeros_(zero)
        nn.init.kaiming_normal_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        # In float32: the layer knows no other type on every device.
        found: Tensor = self.norm(self.conv(x.float(), self.offset(x).float()))
        return found.relu()


class SemanticHead(nn.Module):
    """The pyramid's levels -> scores of all classes at the stride of the finest."""

    def __init__(self, inputs: int, width: int, classes: int):
        super().__init__()
        self.shared = nn.Sequential(Deformable(inputs, inputs), Deformable(inputs, width), Deformable(width, width))
        self.classify = nn.Conv2d(width * len(LEVELS), classes, 1)

    def forward(self, pyramid: list[Tensor]) -> Tensor:
        levels = [resize(self.shared(level), pyramid[0].shape[-2:]) for level in pyramid]
        scores: Tensor = self.classify(torch.cat(levels, dim=1))
        return scores


class UPSNet(SegmentationModel):
    things: Tensor
    stuff: Tensor

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
        min_score: float = MIN_SCORE,
        max_overlap: float = MAX_OVERLAP,
        min_stuff: float = merging.MIN_STUFF,
    ):
        super().__init__()
        channels = channels or 256
        truths.things_of(classes, "upsnet")
        self.classes = classes
        self.min_score, self.max_overlap, self.min_stuff = min_score, max_overlap, min_stuff
        self.mask_rcnn = MaskRCNN(classes=classes, encoder=encoder, channels=channels)
        self.stride = self.mask_rcnn.stride
        self.semantic_head = SemanticHead(channels, channels // 2, classes.count)
        self.register_buffer("things", torch.tensor(classes.things), persistent=False)
        self.register_buffer("stuff", torch.tensor(classes.stuff, dtype=torch.int64), persistent=False)

    def forward(self, images: Tensor) -> Outputs:
        """Mask R-CNN's, and "semantic": the scores at a fourth of the size."""
        outputs: Outputs = self.mask_rcnn(images)
        return {**outputs, "semantic": self.semantic_head([outputs[name] for name in LEVELS])}

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        scores = outputs["semantic"].float()
        objects = [truths.of(t, self.classes.things) for t in targets.instances]
        return {
            **self.mask_rcnn.losses(outputs, targets, pixel_loss),
            "semantic": SEMANTIC * pixel_loss(resize(scores, targets.semantic.shape[-2:]), targets),
            "semantic_region": REGION * region_loss(scores, targets, [t.boxes for t in objects], pixel_loss),
            "panoptic": PANOPTIC * self._panoptic_loss(outputs, scores, targets, objects),
        }

    def _panoptic_loss(self, outputs: Outputs, scores: Tensor, targets: Targets, objects: list[truths.Truth]) -> Tensor:
        """Cross entropy over the stuff, the true instances that are shown, and the unknown."""
        shown = [self._shown(len(t), scores.device) for t in objects]
        boxes = [t.boxes[rows] for t, rows in zip(objects, shown, strict=True)]
        labels = torch.cat([t.labels[rows] for t, rows in zip(objects, shown, strict=True)])
        sizes = [len(rows) for rows in shown]
        masks = self._masks(outputs, boxes, labels)
        parts = []
        for i, (own, label) in enumerate(zip(masks.split(sizes), labels.split(sizes), strict=True)):
            found = panoptic_scores(self._parts(scores[i]), boxes[i], label, own, step=STEP)
            wanted = panoptic_truth(targets.semantic[i], objects[i], shown[i], self.stuff, step=STEP)
            entropy = F.cross_entropy(found[None], wanted[None], ignore_index=VOID, reduction="sum")
            parts.append(torch.stack([entropy, (wanted != VOID).sum()]))
        total, pixels = torch.stack(parts).sum(dim=0).unbind()
        return total / pixels.clamp(min=1)

    def _shown(self, count: int, device: torch.device) -> Tensor:
        """Which of the true instances the panoptic head is shown: a part of them in training, one at least."""
        rows = torch.randperm(count, device=device) if self.training else torch.arange(count, device=device)
        return rows[: max(int(KEPT * count), 1)] if self.training else rows

    def _masks(self, outputs: Outputs, boxes: list[Tensor], labels: Tensor) -> Tensor:
        """Mask logits[n, 28, 28] of all boxes; `labels` are positions in the list of things."""
        logits: Tensor = self.mask_rcnn._masks(outputs, boxes, labels + 1)
        return logits

    def _parts(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        return scores[self.stuff], scores[self.things]

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        images = ({name: values[i : i + 1] for name, values in outputs.items()} for i in range(len(sizes)))
        return [self._predict(image, size) for image, size in zip(images, sizes, strict=True)]

    def _predict(self, outputs: Outputs, size: tuple[int, int]) -> Prediction:
        found = cast(Instances, self.mask_rcnn.predict(outputs, [size])[0].instances)
        rows = thin(found, self.min_score, self.max_overlap)
        boxes, labels = (torch.from_numpy(v[rows]).to(self.things.device) for v in (found.boxes, found.labels))
        positions = (labels[:, None] == self.things).int().argmax(dim=1)
        masks = self._masks(outputs, [boxes], positions)
        coarse = outputs["semantic"].float()
        full = (coarse.shape[-2] * STEP, coarse.shape[-1] * STEP)
        scores = resize(coarse, full)[0, :, : size[0], : size[1]]
        # Of hundreds of instances in a large image, the scores would be gigabytes.
        band = max(BAND // (size[1] * (self.classes.count + len(rows))), 1)
        owner = torch.cat(
            [
                panoptic_scores(self._parts(part), boxes, positions, masks, top=i * band).argmax(dim=0)
                for i, part in enumerate(scores.split(band, dim=1))
            ]
        )
        semantic = scores.argmax(dim=0).to(torch.uint8).cpu().numpy()
        ids, rest = split(owner.cpu().numpy(), semantic, len(rows), self.classes.stuff)
        return merging.compose(
            ids,
            found.labels[rows],
            found.scores[rows],
            rest,
            semantic,
            stuff=self.classes.stuff,
            min_stuff=self.min_stuff,
        )


def region_loss(scores: Tensor, targets: Targets, boxes: list[Tensor], pixel_loss: PixelLoss) -> Tensor:
    """The pixel loss within true boxes, so that small things count as much as large ones."""
    if not sum(len(b) for b in boxes):
        return scores.sum() * 0
    # The paper pools features and then scores them, which is the same: both are linear.
    pooled = roi_align(scores, boxes, CELLS, 1 / STEP, sampling_ratio=2, aligned=True)
    maps = targets.border
    truth = Targets(
        semantic=torch.cat([sampled(m, b) for m, b in zip(targets.semantic, boxes, strict=True)]),
        border=None if maps is None else torch.cat([sampled(m, b) for m, b in zip(maps, boxes, strict=True)]),
        instances=[],
    )
    return pixel_loss(pooled, truth)


def sampled(values: Tensor, boxes: Tensor) -> Tensor:
    """[h, w], boxes within it -> [n, 28, 28]: the pixel at the middle of each cell."""
    middles = (torch.arange(CELLS, device=boxes.device) + 0.5) / CELLS
    x, y = (boxes[:, a, None] + (boxes[:, a + 2] - boxes[:, a])[:, None] * middles for a in (0, 1))
    return values[y.long()[:, :, None], x.long()[:, None, :]]
