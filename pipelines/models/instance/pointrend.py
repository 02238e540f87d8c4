"""PointRend: Kirillov, Wu, He, Girshick, CVPR 2020 (arXiv 1912.08193), on Mask R-CNN, whose mask head it replaces.

A mask is rendered: a coarse 7x7 one per class is scaled up again and again, and each time the points at which it is
least sure are decided anew, by a small network that sees at each point the coarse prediction and the features of p2.
So 224x224 cells cost some 3900 decisions instead of 50 000. Boxes and their deviations are Faster R-CNN's
(`faster_rcnn`); `channels` is the width of the point head too, and a quarter of the coarse head's (the paper: 256 and
1024).

Deviations: a point's truth is its pixel's, not interpolated; a coarse cell's is what at least half of it holds.
Subdivision begins at 28x28, which a step's points fill. There is no implementation to run here: the figures are held
against the paper's and detectron2's counted by hand, the sampling and the subdivision against brute force.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from pipelines.models import encoders
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs
from pipelines.models.instance import published, regions
from pipelines.models.instance.proposals import nothing
from pipelines.models.instance.two_stage import STRIDES, Objects, TwoStage

CELLS = 14  # a region's features from p2, of which the coarse head makes half as many
LEARNED = 14**2  # points per region in training
OVERSAMPLING, IMPORTANCE = 3, 0.75  # candidates per point; share of points that are the least sure of these
RENDERED = 28**2  # points per region and step in use
SIDES = (28, 56, 112, 224)


class CoarseHead(nn.Sequential):
    """features[n, channels, 14, 14] -> mask logits[n, classes, 7, 7]."""

    def __init__(self, channels: int, classes: int):
        side = CELLS // 2
        super().__init__(
            nn.Conv2d(channels, channels, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(channels * side**2, 4 * channels),
            nn.ReLU(inplace=True),
            nn.Linear(4 * channels, 4 * channels),
            nn.ReLU(inplace=True),
            last := nn.Linear(4 * channels, classes * side**2),
            nn.Unflatten(1, (classes, side, side)),
        )
        unsure(last)


class PointHead(nn.Module):
    """fine[n, points, channels], coarse[n, points, classes] -> logits[n, points, classes]."""

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(channels + classes, channels) for _ in range(3))
        self.classify = nn.Linear(channels + classes, classes)
        unsure(self.classify)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        x = fine
        for layer in self.layers:
            x = layer(torch.cat([x, coarse], dim=-1)).relu()
        logits: Tensor = self.classify(torch.cat([x, coarse], dim=-1))
        return logits


class PointRend(TwoStage):
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
            "pointrend", classes=classes, encoder=encoder, channels=channels, smallest_anchor=smallest_anchor
        )
        self.coarse = CoarseHead(channels, len(self.things))
        self.point = PointHead(channels, len(self.things))
        published.fill(self, encoder)

    def learn_masks(self, outputs: Outputs, objects: Objects) -> dict[str, Tensor]:
        """The coarse mask learns all of its cells, the point head those points that tell it most."""
        coarse = self._coarse(outputs, objects.boxes)
        mask = own(coarse, objects.labels)
        points = points_to_learn(mask.detach())
        decided = own(self._decide(outputs, objects.boxes, coarse, points).mT, objects.labels)
        if not len(mask):
            return {"mask": nothing(mask), "point": nothing(decided)}
        truth = torch.cat(
            [
                masks[which[:, None], *pixels_at(b, p, masks.shape[-2:])].float()
                for masks, which, b, p in zip(
                    objects.masks, objects.which, objects.boxes, per_image(points, objects.boxes), strict=True
                )
            ]
        )
        return {
            "mask": F.binary_cross_entropy_with_logits(mask, objects.cut(CELLS // 2)),
            "point": F.binary_cross_entropy_with_logits(decided, truth),
        }

    def draw(self, outputs: Outputs, boxes: Tensor, labels: Tensor, size: tuple[int, int]) -> Tensor:
        return regions.paste(self._render(outputs, boxes, labels).sigmoid(), boxes, *size)

    def _render(self, outputs: Outputs, boxes: Tensor, labels: Tensor) -> Tensor:
        """Mask logits[n, 224, 224] of the boxes of one image, each for its own label."""
        coarse = self._coarse(outputs, [boxes])
        logits = own(coarse, labels)
        for side in SIDES:
            logits = resize(logits[:, None], (side, side)).flatten(1)
            cells = logits.abs().topk(RENDERED, largest=False).indices
            decided = self._decide(outputs, [boxes], coarse, middles(cells, side))
            logits = logits.scatter(1, cells, own(decided.mT, labels)).unflatten(1, (side, side))
        return logits

    def _coarse(self, outputs: Outputs, boxes: list[Tensor]) -> Tensor:
        rois, scale = regions.rois(boxes), 1 / STRIDES["p2"]
        features = roi_align(outputs["p2"].float(), rois, CELLS, scale, sampling_ratio=1, aligned=True)
        logits: Tensor = self.coarse(features)
        return logits.float()

    def _decide(self, outputs: Outputs, boxes: list[Tensor], coarse: Tensor, points: Tensor) -> Tensor:
        """Mask logits[n, points, classes] at points[n, points, 2] of the boxes."""
        where = [places(b, p).flatten(0, 1) for b, p in zip(boxes, per_image(points, boxes), strict=True)]
        # A region without size is a point.
        rois, scale = regions.rois([p.repeat(1, 2) for p in where]), 1 / STRIDES["p2"]
        fine = roi_align(outputs["p2"].float(), rois, 1, scale, sampling_ratio=1, aligned=True)
        logits: Tensor = self.point(fine.flatten(1).unflatten(0, points.shape[:2]), sample(coarse, points))
        return logits.float()


def unsure(layer: nn.Linear) -> None:
    """Begin with masks of 0.5 everywhere."""
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)


def own(logits: Tensor, labels: Tensor) -> Tensor:
    """logits[n, classes, ...], labels from 1 -> [n, ...]."""
    return logits[torch.arange(len(logits), device=logits.device), labels - 1]


def points_to_learn(logits: Tensor) -> Tensor:
    """Of mask logits[n, 7, 7] -> points[n, 196, 2] in their boxes: x, y of 0..1.

    Most are the least sure of many, so that what is learned is where the borders run; the others are anywhere.
    """
    n, important = len(logits), int(IMPORTANCE * LEARNED)
    many = torch.rand(n, OVERSAMPLING * LEARNED, 2, device=logits.device)
    doubtful = sample(logits[:, None], many)[..., 0].abs().topk(important, largest=False).indices
    others = torch.rand(n, LEARNED - important, 2, device=logits.device)
    return torch.cat([many.gather(1, doubtful[..., None].expand(-1, -1, 2)), others], dim=1)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """maps[n, c, h, w] that fill their boxes -> [n, points, c], interpolated."""
    grid = points[:, :, None] * 2 - 1
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=False)[..., 0].mT


def middles(cells: Tensor, side: int) -> Tensor:
    """Positions in a flat square -> the points in the middle of these cells."""
    return (torch.stack([cells % side, cells // side], dim=-1) + 0.5) / side


def places(boxes: Tensor, points: Tensor) -> Tensor:
    """points[n, points, 2] in their boxes -> x, y in the image."""
    return boxes[:, None, :2] + points * (boxes[:, None, 2:] - boxes[:, None, :2])


def pixels_at(boxes: Tensor, points: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
    """The rows and columns of the pixels that hold the points."""
    x, y = places(boxes, points).long().unbind(dim=-1)
    return y.clamp(0, size[0] - 1), x.clamp(0, size[1] - 1)


def per_image(points: Tensor, boxes: list[Tensor]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = points.split([len(b) for b in boxes])
    return parts
