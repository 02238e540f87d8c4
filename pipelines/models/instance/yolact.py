"""YOLACT: Bolya, Zhou, Xiao, Lee, ICCV 2019 (arXiv 1904.02689).

A pyramid p3..p7 over the encoder. From p3, Protonet makes k = 32 maps at stride 4 that know of no object, the
prototypes; a head shared by all levels gives each of three anchors per cell a class, a box, and k coefficients in
-1..1. An object's mask is the sum of the prototypes times its coefficients, cut to its box. Fast NMS (`fast_nms`) keeps
the detections. The hardest background anchors are learned from, three to each object's; a 1x1 convolution on p3 that
learns each cell's classes helps to train.

Deviations: any timm encoder, none of it frozen; `channels` is the width of pyramid, Protonet and head (the paper: 256);
images are taken as they come, not resized to 550x550, and so anchors of 12 to 192 pixels instead of 24 to 384; the
pyramid is the house's, which scales up by nearest neighbours and has a ReLU between p6 and p7 only (the authors':
bilinear, and a ReLU on p3 to p5); masks are scaled up before they are cut to boxes, and 200 detections are kept instead
of 100; an image without objects gives its three hardest anchors as background. Anchors have the paper's three shapes:
in the authors' published weights all are square. Nothing is learned from crowds.

A random 100 of an image's anchors learn a mask, as the authors' do: torch's global generator draws them. Parameters are
held against a count of the paper's layers by hand, assignment and mining against the definition, anchor by anchor.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import box_area, clip_boxes_to_image

from pipelines.data.prediction import Instances, Prediction
from pipelines.data.schema import IGNORE
from pipelines.models import encoders, results
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.fpn import FPN
from pipelines.models.instance import anchors, prototypes, truths
from pipelines.models.instance.fast_nms import fast_nms
from pipelines.models.instance.truths import Truth
from pipelines.targets import Targets

STRIDES = (8, 16, 32, 64, 128)  # p3..p7
SIZES = ((12,), (24,), (48,), (96,), (192,))  # of the anchors, one per level
RATIOS = (1.0, 0.5, 2.0)
PROTOTYPES = 32
CELL = 4  # pixels: the prototypes' stride
HARDEST = 3  # background anchors per object's anchor
MASKS = 100  # of an image that are learned from in one step
BOX_WEIGHT, MASK_WEIGHT = 1.5, 6.125  # the other losses have 1
BOX_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))  # SSD's variances of 0.1 and 0.2


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Protonet(nn.Module):
    """p3 -> the prototypes, at twice its size. None is negative: what one adds, others' coefficients can take away."""

    def __init__(self, channels: int):
        super().__init__()
        self.before = nn.Sequential(*(layer for _ in range(3) for layer in (conv(channels, channels), nn.ReLU())))
        self.after = nn.Sequential(conv(channels, channels), nn.ReLU(), nn.Conv2d(channels, PROTOTYPES, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(self.before(x), scale_factor=2, mode="bilinear", align_corners=False)
        made: Tensor = self.after(x)
        return made


class Head(nn.Module):
    """One level -> of each anchor: class logits (0 is the background), box deltas, coefficients."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.shared = nn.Sequential(conv(channels, channels), nn.ReLU())
        self.classify = conv(channels, len(RATIOS) * (classes + 1))
        self.locate = conv(channels, len(RATIOS) * 4)
        self.mix = conv(channels, len(RATIOS) * PROTOTYPES)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.shared(x)
        said = (self.classify(x), self.locate(x), self.mix(x).tanh())
        return [anchors.rows_of(maps, len(RATIOS)) for maps in said]


class YOLACT(SegmentationModel):
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
        self.things = truths.things_of(classes, "yolact")
        self.encoder = encoders.build(encoder, paper="resnet101")
        self.fpn = FPN(self.encoder, STRIDES, channels)
        self.protonet = Protonet(channels)
        self.head = Head(channels, len(classes.things))
        self.semantic = nn.Conv2d(channels, len(classes.things), 1)
        for part in (self.protonet, self.head, self.semantic):
            part.apply(initialise)

    def forward(self, images: Tensor) -> Outputs:
        pyramid = self.fpn(self.encoder(images))
        levels = zip(*(self.head(level) for level in pyramid), strict=True)
        classes, deltas, coefficients = (torch.cat(level, dim=1) for level in levels)
        return {
            "prototypes": self.protonet(pyramid[0]),
            "semantic": self.semantic(pyramid[0]),
            "classes": classes,
            "deltas": deltas,
            "coefficients": coefficients,
        }

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        outputs = {name: values.float() for name, values in outputs.items()}
        boxes = self._anchors(outputs)
        found = [truths.of(t, self.things) for t in targets.instances]
        matches = [
            anchors.assign(boxes, truth.boxes, t.boxes[t.iscrowd], positive=0.5, negative=0.4)
            for truth, t in zip(found, targets.instances, strict=True)
        ]
        labels = torch.stack([labels_of(match, truth) for match, truth in zip(matches, found, strict=True)])
        objects = (labels > 0).sum().clamp(min=1)
        each = [
            self._object_losses({name: values[i] for name, values in outputs.items()}, boxes, match, truth)
            for i, (match, truth) in enumerate(zip(matches, found, strict=True))
        ]
        box, mask = (torch.stack(parts).sum() for parts in zip(*each, strict=True))
        return {
            "classifier": mined_cross_entropy(outputs["classes"], labels) / objects,
            "box": BOX_WEIGHT * box / objects,
            "mask": MASK_WEIGHT * mask / objects,
            "semantic": semantic_loss(outputs["semantic"], found, targets.semantic),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        boxes = self._anchors(outputs)
        # One at a time: the masks of a hundred detections in each of many images would be gigabytes.
        images = ({name: values[i].float() for name, values in outputs.items()} for i in range(len(sizes)))
        return [
            Prediction(instances=self._detect(image, boxes, size)) for image, size in zip(images, sizes, strict=True)
        ]

    def _detect(self, outputs: Outputs, boxes: Tensor, size: tuple[int, int]) -> Instances:
        boxes = clip_boxes_to_image(BOX_CODER.decode_single(outputs["deltas"], boxes), size)
        scores = outputs["classes"].softmax(dim=1)[:, 1:]
        rows, labels, scores = fast_nms(boxes, scores, iou=0.5, score=0.05, per_class=200, total=200)
        logits = torch.einsum("nk,khw->nhw", outputs["coefficients"][rows], outputs["prototypes"])
        masks = prototypes.paint(logits, boxes[rows], CELL, size)
        return results.instances(masks, truths.ids_of(labels, self.things), scores, boxes[rows])

    def _anchors(self, outputs: Outputs) -> Tensor:
        height, width = outputs["prototypes"].shape[-2:]
        size, device = (height * CELL, width * CELL), outputs["prototypes"].device
        return torch.cat(anchors.pyramid(size, STRIDES, SIZES, RATIOS, device))

    def _object_losses(self, outputs: Outputs, boxes: Tensor, match: Tensor, truth: Truth) -> tuple[Tensor, Tensor]:
        """Summed over the anchors that are to find an object: of their boxes, and of their masks."""
        rows = torch.where(match >= 0)[0]
        wanted = BOX_CODER.encode_single(truth.boxes[match[rows]], boxes[rows])
        box = F.smooth_l1_loss(outputs["deltas"][rows], wanted, reduction="sum")
        some = rows[torch.randperm(len(rows), device=rows.device)[:MASKS]]
        logits = torch.einsum("nk,khw->nhw", outputs["coefficients"][some], outputs["prototypes"])
        mask = mask_loss(logits, prototypes.cells(truth.masks, CELL)[match[some]], truth.boxes[match[some]])
        return box, mask.sum() * (len(rows) / max(len(some), 1))


def initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


def labels_of(match: Tensor, truth: Truth) -> Tensor:
    """int64[anchors]: 1 + the position in the list of things, 0 background, -1 neither."""
    labels = match + 1
    labels[match >= 0] = truth.labels[match[match >= 0]] + 1
    return labels


def mined_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed over the objects' anchors[b, n] and the hardest of the background, so many times as many in each image."""
    background = -logits.log_softmax(dim=2)[..., 0]
    rank = background.masked_fill(labels != 0, -1).argsort(dim=1, descending=True).argsort(dim=1)
    wanted = HARDEST * (labels > 0).sum(dim=1, keepdim=True).clamp(min=1)
    chosen = (labels > 0) | ((labels == 0) & (rank < wanted))
    return F.cross_entropy(logits[chosen], labels[chosen], reduction="sum")


def mask_loss(logits: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """Per object, by the area of its box. One cell around the box counts too: the least object has cells of its own,
    and what lies just outside is learned, for a box is never found exactly."""
    near = prototypes.inside(prototypes.grown(boxes, 0, CELL), (logits.shape[1], logits.shape[2]), CELL)
    wrong = F.binary_cross_entropy_with_logits(logits, masks.float(), reduction="none") * near
    area: Tensor = box_area(boxes) / CELL**2
    return wrong.sum(dim=(1, 2)) / area.clamp(min=1)


def semantic_loss(logits: Tensor, found: list[Truth], semantic: Tensor) -> Tensor:
    """Each class on its own, for objects of several may overlap: summed over classes, a mean over the cells of p3."""
    stride = STRIDES[0]
    masks = [prototypes.cells(truth.masks, stride).flatten(1).float() for truth in found]
    kinds = [F.one_hot(truth.labels, logits.shape[1]).float() for truth in found]
    seen = torch.stack([kind.T @ mask > 0 for kind, mask in zip(kinds, masks, strict=True)]).view_as(logits)
    crowd = prototypes.cells(torch.stack([truth.crowd for truth in found]), stride)
    known = ~crowd & (semantic[:, stride // 2 :: stride, stride // 2 :: stride] != IGNORE)
    wrong = F.binary_cross_entropy_with_logits(logits, seen.float(), reduction="none").sum(dim=1)
    return (wrong * known).sum() / known.sum().clamp(min=1)
