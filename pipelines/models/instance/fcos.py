"""The dense detector that PolarMask and BlendMask stand on: FCOS, Tian, Shen, Chen, He, ICCV 2019 (arXiv 1904.01355).

Each cell of the pyramid's levels p3..p7 is a point of the image. Two towers of four 3x3 convolutions, with group norm
and shared by all levels, say of each point which class of things it lies on, how far from it the object's sides are
(or, for PolarMask, its contour along rays), and how near it is to the object's middle. A point learns the smallest of
the objects that it lies in, if its level is meant for that object's size and the point lies within 1.5 strides of the
middle (centre sampling).

As in the authors' later code and in torchvision, distances are in strides, centreness is read from the tower of
distances, the box loss is generalised IoU, and a score is the root of probability times centreness.

Deviations: a level's sizes are half of the paper's (p3 for distances up to 32 pixels, then 64, 128, 256, and p7 for all
above), as images are taken as they come and not enlarged to a short side of 800; groups of 8 channels at any width
(the paper's 32 groups of 256); up to 200 detections instead of 100. Nothing is learned from crowds: points on them are
neither object nor background. As in the paper, an object that lies between all points is not learned: one narrower than
8 pixels can.

Held against torchvision's FCOS with equal weights: head, assignment, losses and detections.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import (
    Conv2dNormActivation,
    batched_nms,
    clip_boxes_to_image,
    generalized_box_iou_loss,
    sigmoid_focal_loss,
)

from pipelines.models.contract import Outputs
from pipelines.models.instance.truths import Truth

STRIDES = (8, 16, 32, 64, 128)
REACH = 4  # strides: the farthest side that a level's points look for (the paper: 8); the next level goes on from there
RADIUS = 1.5  # strides: how far from an object's middle its points are
PRIOR = 0.01  # of a class at a point, before training: or the many points on nothing drown all else
LONGEST = math.log(1000 / 16)  # strides, of which a distance is the exponential: an early step must not overflow it
MIN_SCORE = 0.2  # torchvision's; about the paper's 0.05 of a class
MAX_CANDIDATES = 3000  # that go into the suppression: several for each of hundreds of nuclei (the paper: 1000 a level)
NMS = 0.6
MAX_DETECTIONS = 200


def tower(channels: int) -> nn.Sequential:
    groups = next(g for g in range(min(32, max(channels // 8, 1)), 0, -1) if channels % g == 0)
    return nn.Sequential(
        *(
            Conv2dNormActivation(channels, channels, 3, norm_layer=lambda c: nn.GroupNorm(groups, c), bias=True)
            for _ in range(4)
        )
    )


class Head(nn.Module):
    """The pyramid, finest first -> the outputs of all points, level after level; and the tower of distances, for
    whoever reads more from it."""

    def __init__(self, channels: int, classes: int, distances: int = 4):
        super().__init__()
        self.class_tower = tower(channels)
        self.logits = nn.Conv2d(channels, classes, 3, padding=1)
        self.distance_tower = tower(channels)
        self.distances = nn.Conv2d(channels, distances, 3, padding=1)
        self.centerness = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(STRIDES)))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                initialise(layer)
        initialise(self.logits, bias=-math.log((1 - PRIOR) / PRIOR))

    def forward(self, pyramid: list[Tensor]) -> tuple[Outputs, list[Tensor]]:
        near = [self.distance_tower(level) for level in pyramid]
        raw = [scale * self.distances(x).float() for scale, x in zip(self.scales, near, strict=True)]
        points = points_of(pyramid)
        distances = by_point(raw).clamp(max=LONGEST).exp() * points[:, 2:]
        outputs = {
            "points": points.expand(distances.shape[0], -1, -1),
            "logits": by_point([self.logits(self.class_tower(level)) for level in pyramid]),
            "distances": distances,
            "centerness": by_point([self.centerness(x) for x in near]).squeeze(2),
        }
        return outputs, near


def initialise(conv: nn.Conv2d, bias: float = 0.0) -> None:
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias)


def by_point(levels: list[Tensor]) -> Tensor:
    """[b, c, h, w] of each level -> [b, n, c]: all points, level after level."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)


def points_of(pyramid: list[Tensor]) -> Tensor:
    """float32[n, 3]: x and y in pixels, and the stride, of the middle of every cell."""
    points = []
    for level, stride in zip(pyramid, STRIDES, strict=True):
        y, x = ((torch.arange(n, device=level.device) + 0.5) * stride for n in level.shape[-2:])
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2).flatten(0, 1)
        points.append(F.pad(grid, (0, 1), value=stride))
    return torch.cat(points)


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """What the points of a batch learn."""

    owner: Tensor  # int64[b, n]: the object, a row of its image's truth; -1: none
    known: Tensor  # bool[b, n]: not on a crowd

    @property
    def positive(self) -> Tensor:
        return self.owner >= 0

    def of(self, rows: Sequence[Tensor]) -> Tensor:
        """Of each image's rows, one per object, those of all points that have an object, image after image."""
        return torch.cat([row[owner[owner >= 0]] for row, owner in zip(rows, self.owner, strict=True)])


def match(outputs: Outputs, truths: list[Truth], middles: list[Tensor]) -> Matches:
    """`middles`, float[n, 2] per image: around which point of an object its points lie."""
    points = outputs["points"]
    owner = torch.stack([assign(points[0], t.boxes, m) for t, m in zip(truths, middles, strict=True)])
    crowd = torch.stack([at(t.crowd, points[0]) for t in truths])
    return Matches(owner=owner, known=(owner >= 0) | ~crowd)


@torch.no_grad()
def assign(points: Tensor, boxes: Tensor, middles: Tensor, reach: float = REACH) -> Tensor:
    """int64[points]: the box that each learns, or -1."""
    if not len(boxes):
        return torch.full((len(points),), -1, device=points.device)
    where, stride = points[:, None, :2], points[:, 2:]
    before, behind = where - boxes[:, :2], boxes[:, 2:] - where
    inside = torch.minimum(before, behind).amin(dim=2) > 0
    central = (where - middles).abs().amax(dim=2) < RADIUS * stride
    farthest = torch.maximum(before, behind).amax(dim=2)
    above = (farthest > reach / 2 * stride) | (stride == STRIDES[0])
    below = (farthest <= reach * stride) | (stride == STRIDES[-1])
    area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    smallest, owner = torch.where(inside & central & above & below, area, torch.inf).min(dim=1)
    return torch.where(smallest.isfinite(), owner, -1)


def at(mask: Tensor, points: Tensor) -> Tensor:
    """What bool[h, w] says at each point; a coarse level's can lie beyond the image, and take its edge."""
    x, y = points[:, :2].long().unbind(dim=1)
    return mask[y.clamp(max=mask.shape[0] - 1), x.clamp(max=mask.shape[1] - 1)]


def middles_of(boxes: Tensor) -> Tensor:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def boxes_at(points: Tensor, distances: Tensor) -> Tensor:
    """Left, top, right and bottom distance -> x1, y1, x2, y2."""
    where = points[..., :2]
    return torch.cat([where - distances[..., :2], where + distances[..., 2:]], dim=-1)


def classifier_loss(outputs: Outputs, matches: Matches, labels: list[Tensor]) -> Tensor:
    logits = outputs["logits"].float()
    wanted = torch.zeros_like(logits)
    wanted[matches.positive] = F.one_hot(matches.of(labels), logits.shape[2]).to(wanted)
    losses: Tensor = sigmoid_focal_loss(logits, wanted) * matches.known[..., None]
    return losses.sum() / matches.positive.sum().clamp(min=1)


def box_loss(outputs: Outputs, matches: Matches, boxes: Tensor) -> Tensor:
    """Against the box[positives, 4] of each point's object."""
    found = boxes_at(outputs["points"], outputs["distances"].float())[matches.positive]
    loss: Tensor = generalized_box_iou_loss(found, boxes, reduction="sum")
    return loss / max(len(boxes), 1)


def box_centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """1 in the middle of the box, 0 on its edge: the paper's equation 3."""
    before, behind = points[:, :2] - boxes[:, :2], boxes[:, 2:] - points[:, :2]
    return (torch.minimum(before, behind) / torch.maximum(before, behind)).prod(dim=1).sqrt()


def centerness_loss(outputs: Outputs, matches: Matches, wanted: Tensor) -> Tensor:
    found = outputs["centerness"].float()[matches.positive]
    return F.binary_cross_entropy_with_logits(found, wanted, reduction="sum") / max(len(wanted), 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """Of one image, best first."""

    boxes: Tensor  # float32[n, 4], within the image
    scores: Tensor
    labels: Tensor  # int64[n]: positions in the model's list of things
    points: Tensor  # int64[n]: which of the points says so


def detect(outputs: Outputs, boxes: Tensor, size: tuple[int, int]) -> Detections:
    """The points of one image (no batch in front), each with its box -> what is left once the best of each crowd of
    boxes of a class has suppressed the others."""
    chances = outputs["logits"].float().sigmoid() * outputs["centerness"].float().sigmoid()[:, None]
    scores, order = chances.sqrt().flatten().topk(min(MAX_CANDIDATES, chances.numel()))
    points, labels = order // chances.shape[1], order % chances.shape[1]
    boxes = clip_boxes_to_image(boxes[points], size)
    seen = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & (scores > MIN_SCORE)
    boxes, scores, labels, points = boxes[seen], scores[seen], labels[seen], points[seen]
    keep = batched_nms(boxes, scores, labels, NMS)[:MAX_DETECTIONS]
    return Detections(boxes=boxes[keep], scores=scores[keep], labels=labels[keep], points=points[keep])
