"""PolarMask: Xie, Sun, Song, Wang, Liu, Liang, Shen, Luo, CVPR 2020 (arXiv 1909.13226).

FCOS (`fcos`) with 36 distances instead of 4: from a point near the centre of mass of an object to its contour, along
rays 10 degrees apart. Their ends, joined in turn, are the outline of its mask. Polar centreness, the root of the
shortest by the longest ray, takes the place of FCOS's, and polar IoU that of box IoU. There is no other head: boxes are
those of the outlines.

A ray's truth is the farthest pixel of the object that it meets, to the very edge of that pixel's square, and 1e-6 where
it meets none, as from a point outside.

Deviations: any timm encoder; what `fcos` lists, which includes centreness from the tower of rays (the paper: of
classes) and, as elsewhere, the root of probability times centreness as the score (the authors add 0.5 to the latter);
rays end at pixels' edges, not at the centre of the contour's pixel nearest in angle, since a nucleus has fewer
of these than there are degrees. Rays are held against steps along them, outlines against counted crossings.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import encoders, results
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.fpn import FPN
from pipelines.models.instance import fcos, truths
from pipelines.targets import Targets

RAYS = 36
SHORTEST = 1e-6  # pixels: a ray that meets nothing
BLOCK = 2**21  # pixels that are drawn at a time


class PolarMask(SegmentationModel):
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
        self.things = truths.things_of(classes, "polarmask")
        self.encoder = encoders.build(encoder, paper="resnet50")
        self.fpn = FPN(self.encoder, fcos.STRIDES, channels)
        self.head = fcos.Head(channels, len(classes.things), distances=RAYS)

    def forward(self, images: Tensor) -> Outputs:
        pyramid = self.fpn(self.encoder(images))
        outputs: Outputs = self.head(pyramid)[0]
        return outputs

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        objects = [truths.of(t, self.things) for t in targets.instances]
        matches = fcos.match(outputs, objects, [centers_of_mass(t.masks) for t in objects])
        points = [p[owner >= 0, :2] for p, owner in zip(outputs["points"], matches.owner, strict=True)]
        owners = [owner[owner >= 0] for owner in matches.owner]
        wanted = torch.cat([rays_of(t.masks, o, p) for t, o, p in zip(objects, owners, points, strict=True)])
        found = outputs["distances"].float()[matches.positive]
        centerness = polar_centerness(wanted)
        return {
            "classifier": fcos.classifier_loss(outputs, matches, [t.labels for t in objects]),
            "centerness": fcos.centerness_loss(outputs, matches, centerness),
            "mask": (polar_iou_loss(found, wanted) * centerness).sum() / centerness.sum().clamp(min=1),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        images = ({name: values[i] for name, values in outputs.items()} for i in range(len(sizes)))
        return [Prediction(instances=self._detect(image, size)) for image, size in zip(images, sizes, strict=True)]

    def _detect(self, image: Outputs, size: tuple[int, int]) -> Instances:
        rays = image["distances"].float()
        outlines = image["points"][:, None, :2] + rays[..., None] * directions(rays.device)
        found = fcos.detect(image, torch.cat([outlines.amin(dim=1), outlines.amax(dim=1)], dim=1), size)
        masks = fill(image["points"][found.points, :2], rays[found.points], found.boxes, *size)
        return results.instances(masks, truths.ids_of(found.labels, self.things), found.scores)


def directions(device: torch.device) -> Tensor:
    """float32[36, 2] as (x, y). None lies along the grid to the last bit, where rays would run between two pixels."""
    angles = torch.arange(RAYS, device=device) * (2 * math.pi / RAYS)
    units = torch.stack([angles.cos(), angles.sin()], dim=1)
    return torch.where(units.abs() < 1e-6, 1e-6, units)


def centers_of_mass(masks: Tensor) -> Tensor:
    """bool[n, h, w] -> float32[n, 2] as (x, y)."""
    obj, y, x = masks.nonzero(as_tuple=True)
    area, right, down = (torch.bincount(obj, weights, len(masks)) for weights in (None, x + 0.5, y + 0.5))
    return (torch.stack([right, down], dim=1) / area.clamp(min=1)[:, None]).float()


@torch.no_grad()
def rays_of(masks: Tensor, which: Tensor, points: Tensor) -> Tensor:
    """float32[k, 36]: how far from point k mask `which[k]` reaches along each ray."""
    obj, x, y = contours(masks)
    pixels = torch.bincount(obj, minlength=len(masks))
    first = pixels.cumsum(0) - pixels
    # Every point beside every pixel of its object's contour: lists of different lengths, one after the other.
    point = torch.arange(len(which), device=which.device).repeat_interleave(pixels[which])
    row = torch.arange(len(point), device=which.device)
    row += (first[which] - pixels[which].cumsum(0) + pixels[which])[point]
    corner = torch.stack([x, y], dim=1)[row] - points[point]
    rays = torch.full((len(which), RAYS), SHORTEST, device=points.device)
    ray = directions(points.device)
    return rays.scatter_reduce(0, point[:, None].expand(-1, RAYS), far_end(corner, ray), "amax")


def contours(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Object, x and y, object after object, of all pixels beside one that is not the object's: no others can be the
    last on a ray."""
    obj, y, x = masks.nonzero(as_tuple=True)
    around = F.pad(masks, (1, 1, 1, 1))
    beside = (around[obj, y + down, x + right] for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)))
    edge = ~torch.stack(list(beside)).all(dim=0)
    return obj[edge], x[edge], y[edge]


def far_end(corner: Tensor, ray: Tensor) -> Tensor:
    """Where rays[r, 2] from the origin leave the unit squares at corner[n, 2] -> float[n, r]; 0: they miss it."""
    (x, other_x), (y, other_y) = (
        (corner[:, k, None] / ray[:, k], (corner[:, k, None] + 1) / ray[:, k]) for k in (0, 1)
    )
    enter = torch.maximum(torch.minimum(x, other_x), torch.minimum(y, other_y))
    leave = torch.minimum(torch.maximum(x, other_x), torch.maximum(y, other_y))
    return torch.where(leave > enter.clamp(min=0), leave, 0)


def polar_centerness(rays: Tensor) -> Tensor:
    """Root of the shortest by the longest ray; where that is below a pixel, as it is if all miss, by a pixel."""
    return (rays.amin(dim=1) / rays.amax(dim=1).clamp(min=1)).sqrt()


def polar_iou_loss(found: Tensor, wanted: Tensor) -> Tensor:
    """Of each row, minus the log of its polar IoU: of the shorter rays' sum by the longer ones'."""
    return (torch.maximum(found, wanted).sum(dim=1) / torch.minimum(found, wanted).sum(dim=1)).log()


def fill(points: Tensor, rays: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """bool[n, height, width]: the pixels within each outline, which lies in its box."""
    masks = torch.zeros(len(points), height, width, dtype=torch.bool, device=points.device)
    corner, opposite = boxes[:, :2].floor().long(), boxes[:, 2:].ceil().long()
    sides = opposite - corner
    ends = sides.prod(dim=1).cumsum(0)
    total = int(ends[-1]) if len(ends) else 0
    for start in range(0, total, BLOCK):  # the pixels of all boxes as one list
        pixel = torch.arange(start, min(start + BLOCK, total), device=points.device)
        n = torch.searchsorted(ends, pixel, right=True)
        place = pixel - (ends - sides.prod(dim=1))[n]
        x, y = corner[n, 0] + place % sides[n, 0], corner[n, 1] + place // sides[n, 0]
        masks[n, y, x] = inside(torch.stack([x, y], dim=1) + 0.5 - points[n], rays[n])
    return masks


def inside(pixels: Tensor, rays: Tensor) -> Tensor:
    """bool[k]: pixel[k, 2], as seen from the point, lies in the triangle of the two rays[k, 36] beside it."""
    units = directions(rays.device)
    sector = (torch.atan2(pixels[:, 1], pixels[:, 0]) * (RAYS / (2 * math.pi))).floor().long() % RAYS
    following = (sector + 1) % RAYS
    one, other = (rays.gather(1, k[:, None])[:, 0] for k in (sector, following))
    # Areas of triangles: the pixel's with either ray are together no more than that of the two rays.
    return one * cross(units[sector], pixels) + other * cross(pixels, units[following]) <= one * other * math.sin(
        2 * math.pi / RAYS
    )


def cross(a: Tensor, b: Tensor) -> Tensor:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
