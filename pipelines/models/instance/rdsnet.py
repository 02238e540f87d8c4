"""RDSNet: Wang et al., AAAI 2020 (arXiv 1912.05070), on RetinaNet (arXiv 1708.02002).

Two streams on a pyramid p3..p7. The object stream is RetinaNet's: of nine anchors per cell, classes by focal loss, a
box, and two vectors of d = 32 values, what the object looks like and what is around it. The pixel stream joins p3 to p5
into a vector of d values per cell of stride 4. A pixel belongs to an object as its vector correlates with the object's
rather than with its surroundings'; masks are cut to the boxes, slightly grown. And masks refine boxes
(`boundary_refinement`).

Deviations: any timm encoder, none of it frozen; `channels` is the width of pyramid and streams (the paper: 256), with
group norm over groups of 8 channels, which are the authors' 32; images are taken as they come, not resized to a short
side of 800, and so anchors from 16 pixels on instead of 32; objects of less than 100 pixels learn their masks too; a
true box that fits no anchor has the one that fits it best, not all that fit it equally; 200 detections are kept instead
of 100. Nothing is learned from crowds.

A random 100 of an image's anchors learn a mask: torch's global generator draws them. Heads, classification loss and
detections are held against torchvision's RetinaNet with equal weights, parameters against a count of layers by hand.
"""

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_area, clip_boxes_to_image, sigmoid_focal_loss
from torchvision.ops.misc import Conv2dNormActivation

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import encoders, results
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.fpn import FPN
from pipelines.models.instance import anchors, boundary_refinement, prototypes, truths
from pipelines.models.instance.boundary_refinement import BoundaryRefinement
from pipelines.models.instance.truths import Truth
from pipelines.targets import Targets

STRIDES = (8, 16, 32, 64, 128)  # p3..p7
SIZES = [[2 * stride * 2 ** (octave / 3) for octave in range(3)] for stride in STRIDES]  # of the anchors of each level
RATIOS = (0.5, 1.0, 2.0)
PER_CELL = len(SIZES[0]) * len(RATIOS)
VECTOR = 32  # the paper's d
CELL = 4  # pixels: the pixel stream's stride
MASKS = 100  # of an image that are learned from in one step
LEARNED_MARGIN, USED_MARGIN = 0.25, 0.1  # around a box, of its width and height: what of a mask counts
LIKELY = 0.4  # probability from which a pixel belongs to the object
BOX_CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))
CANDIDATES, KEPT = 1000, 200  # per level, per image


def block(channels: int) -> nn.Sequential:
    """3x3 convolution, group norm, ReLU."""
    norm = partial(nn.GroupNorm, channels // 8 if channels % 8 == 0 else 1)
    layers: nn.Sequential = Conv2dNormActivation(channels, channels, 3, norm_layer=norm)
    return layers


def up() -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear")


def tower(channels: int, each: int) -> nn.Sequential:
    """RetinaNet's: four blocks, then `each` values for every anchor of a cell."""
    blocks = (block(channels) for _ in range(4))
    layers = nn.Sequential(*blocks, nn.Conv2d(channels, PER_CELL * each, 3, padding=1))
    for layer in layers.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
    return layers


class PixelStream(nn.Module):
    """p3, p4, p5 -> a vector per cell of stride 4."""

    def __init__(self, channels: int):
        super().__init__()
        self.p3 = block(channels)
        self.p4 = nn.Sequential(block(channels), up())
        self.p5 = nn.Sequential(block(channels), up(), block(channels), up())
        self.join = nn.Sequential(block(channels), up(), nn.Conv2d(channels, VECTOR, 1))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, p3: Tensor, p4: Tensor, p5: Tensor) -> Tensor:
        vectors: Tensor = self.join(self.p3(p3) + self.p4(p4) + self.p5(p5))
        return vectors


class RDSNet(SegmentationModel):
    stride = 32

    def __init__(
        self,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        channels = channels or 256
        self.things = truths.things_of(classes, "rdsnet")
        self.encoder = encoders.build(encoder, paper="resnet101")
        self.fpn = FPN(self.encoder, STRIDES, channels)
        self.classify = tower(channels, len(classes.things))
        nn.init.constant_(self.classify[-1].bias, -math.log(99))  # type: ignore[arg-type]  # 0.01, focal loss' prior
        self.locate = tower(channels, 4)
        self.represent = tower(channels, 2 * VECTOR)
        self.pixels_of = PixelStream(channels)
        self.boundaries = BoundaryRefinement()

    def forward(self, images: Tensor) -> Outputs:
        pyramid = self.fpn(self.encoder(images))
        classes, deltas, vectors = (
            torch.cat([anchors.rows_of(head(level), PER_CELL) for level in pyramid], dim=1)
            for head in (self.classify, self.locate, self.represent)
        )
        return {
            "pixels": self.pixels_of(*pyramid[:3]),
            "classes": classes,
            "deltas": deltas,
            "objects": vectors.unflatten(2, (2, VECTOR)),
        }

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        outputs = {name: values.float() for name, values in outputs.items()}
        boxes = torch.cat(self._anchors(outputs))
        each, objects, masks = [], 0, 0
        for i, target in enumerate(targets.instances):
            truth = truths.of(target, self.things)
            match = anchors.assign(boxes, truth.boxes, target.boxes[target.iscrowd], positive=0.5, negative=0.4)
            each.append(self._anchor_losses({name: values[i] for name, values in outputs.items()}, boxes, match, truth))
            found = int((match >= 0).sum())
            objects, masks = objects + found, masks + min(found, MASKS)
        classifier, box, mask, boundary = (torch.stack(parts).sum() for parts in zip(*each, strict=True))
        return {
            "classifier": classifier / max(objects, 1),
            "box": box / max(objects, 1),
            "mask": mask / max(masks, 1),
            "boundary": boundary / max(masks, 1),
        }

    def _anchor_losses(self, outputs: Outputs, boxes: Tensor, match: Tensor, truth: Truth) -> tuple[Tensor, ...]:
        """Summed over the anchors of one image."""
        rows = torch.where(match >= 0)[0]
        labels = torch.zeros_like(outputs["classes"])
        labels[rows, truth.labels[match[rows]]] = 1
        known = match != anchors.UNKNOWN
        classifier: Tensor = sigmoid_focal_loss(outputs["classes"][known], labels[known], reduction="sum")
        wanted = BOX_CODER.encode_single(truth.boxes[match[rows]], boxes[rows])
        box = F.smooth_l1_loss(outputs["deltas"][rows], wanted, reduction="sum", beta=1 / 9)
        some = rows[torch.randperm(len(rows), device=rows.device)[:MASKS]]
        return classifier, box, *self._mask_losses(outputs, some, match[some], truth)

    def _mask_losses(self, outputs: Outputs, rows: Tensor, match: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
        logits = self._correlate(outputs, rows)
        boxes = truth.boxes[match]
        mask = mined_mask_loss(
            logits, prototypes.cells(truth.masks, CELL)[match], self._near(boxes, logits, LEARNED_MARGIN)
        )
        # The refinement learns to read masks as they are; what they are is for the mask loss to say.
        size = (truth.crowd.shape[0], truth.crowd.shape[1])
        shown = logits.detach().sigmoid() * self._near(boxes, logits, USED_MARGIN)
        boundary = self.boundaries.loss(*boundary_refinement.profiles(shown, CELL, size), boxes)
        return mask.sum(), boundary.sum()

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        levels = self._anchors(outputs)
        # One at a time: the masks of a hundred detections in each of many images would be gigabytes.
        images = ({name: values[i].float() for name, values in outputs.items()} for i in range(len(sizes)))
        found = (self._segment(image, levels, size) for image, size in zip(images, sizes, strict=True))
        return [Prediction(instances=instances) for instances in found]

    def _segment(self, outputs: Outputs, levels: list[Tensor], size: tuple[int, int]) -> Instances:
        rows, labels, scores, boxes = detect(outputs["classes"], outputs["deltas"], levels, size)
        logits = self._correlate(outputs, rows)
        threshold = math.log(LIKELY / (1 - LIKELY))
        masks = prototypes.paint(logits, prototypes.grown(boxes, USED_MARGIN, 1), CELL, size, threshold)
        shown = logits.sigmoid() * self._near(boxes, logits, USED_MARGIN)
        refined = self.boundaries.refine(*boundary_refinement.profiles(shown, CELL, size), boxes)
        return results.instances(masks, truths.ids_of(labels, self.things), scores, refined)

    def _correlate(self, outputs: Outputs, rows: Tensor) -> Tensor:
        """Mask logits[n, h, w]. The softmax of two correlations is the sigmoid of their difference, and that is the
        correlation with the vectors' difference."""
        of_object, of_surroundings = outputs["objects"][rows].unbind(dim=1)
        return torch.einsum("nd,dhw->nhw", of_object - of_surroundings, outputs["pixels"])

    def _near(self, boxes: Tensor, logits: Tensor, margin: float) -> Tensor:
        """The cells of each box, grown; by a cell at least, so that the least object has cells of its own."""
        return prototypes.inside(prototypes.grown(boxes, margin, CELL), (logits.shape[1], logits.shape[2]), CELL)

    def _anchors(self, outputs: Outputs) -> list[Tensor]:
        height, width = outputs["pixels"].shape[-2:]
        size, device = (height * CELL, width * CELL), outputs["pixels"].device
        return anchors.pyramid(size, STRIDES, SIZES, RATIOS, device)


def detect(
    logits: Tensor, deltas: Tensor, levels: list[Tensor], size: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of anchors, positions in the list of things, scores and boxes, best first."""
    scores = logits.sigmoid()
    kinds = scores.shape[1]
    first, candidates = 0, []
    for level in levels:
        here = scores[first : first + len(level)].flatten()
        candidates.append(here.topk(min(CANDIDATES, len(here))).indices + first * kinds)
        first += len(level)
    which = torch.cat(candidates)
    which = which[scores.flatten()[which] > 0.05]
    rows, labels, best = which // kinds, which % kinds, scores.flatten()[which]
    boxes = clip_boxes_to_image(BOX_CODER.decode_single(deltas[rows], torch.cat(levels)[rows]), size)
    kept = batched_nms(boxes, best, labels, 0.5)
    kept = kept[box_area(boxes[kept]) > 0][:KEPT]  # the others lie beyond the image
    return rows[kept], labels[kept], best[kept], boxes[kept]


def mined_mask_loss(logits: Tensor, masks: Tensor, near: Tensor) -> Tensor:
    """Per object, a mean over its cells and as many of the hardest around it, all of them near its box."""
    wrong = F.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none")
    objects, around = (masks & near).flatten(1), (~masks & near).flatten(1)
    count = objects.sum(dim=1)
    hardest = (wrong.flatten(1) * around).sort(dim=1, descending=True).values
    taken = torch.minimum(count, around.sum(dim=1))
    mined = hardest * (torch.arange(hardest.shape[1], device=hardest.device) < taken[:, None])
    return ((wrong.flatten(1) * objects).sum(dim=1) + mined.sum(dim=1)) / (count + taken).clamp(min=1)
