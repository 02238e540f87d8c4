"""What SOLO (arXiv 1912.04488) and SOLOv2 (arXiv 2003.10152) share: an object is found by the cell of an S x S grid
that its centre falls into.

Five levels of the pyramid have a grid each, finer for smaller objects. A cell says a class; how it draws its object's
mask is where the two models differ. The cells that meet an object's centre region, the middle fifth of its box moved
to the centre of its mass, learn it: at most three by three.

Deviations: the first level has no smallest object and the last no largest; where objects share a cell, the smaller one
has it (the authors: the last of the file); what a mask learns from is the share of each cell of the map that the object
covers, not that share rounded, so that objects of a few pixels remain; a cell that is mostly crowd is no background; in
use the 500 surest cells have their masks made (the authors make all above 0.1, and take 500 then), and small masks are
kept (the authors drop those of less area than their stride, which at 800 pixels are specks and in small images nuclei).
Held against loops over objects and cells.

The grid spans what it is given: predictions of an image that is padded far beyond its size are coarser.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, sigmoid_focal_loss

from pipelines.data.prediction import Instances, Prediction
from pipelines.models import results
from pipelines.models.blocks import resize
from pipelines.models.contract import Classes, Outputs, PixelLoss, SegmentationModel
from pipelines.models.instance import truths
from pipelines.models.instance.matrix_nms import matrix_nms
from pipelines.models.instance.truths import Truth
from pipelines.targets import Targets

GRIDS = (40, 36, 24, 16, 12)
SIZES = ((0.0, 96.0), (48.0, 192.0), (96.0, 384.0), (192.0, 768.0), (384.0, math.inf))  # pixels: sqrt(box area)
CENTER = 0.2  # of a box: the size of its centre region
CROWD = 0.5  # of a cell
PRIOR = 0.01  # probability of every class in every cell, at first
MASK_WEIGHT = 3.0  # of the mask loss, beside 1 for the classes
FINEST = 4  # stride of the masks of the first level
MIN_SCORE, MIN_UPDATED = 0.1, 0.05  # before and after suppression
CANDIDATES, FOUND = 500, 100


def levels_of(pyramid: list[Tensor]) -> list[Tensor]:
    """p2..p5, and p6 that is every other pixel of p5 -> maps at strides 8, 8, 16, 32, 32."""
    p2, p3, p4, p5 = pyramid
    p6 = F.max_pool2d(p5, kernel_size=1, stride=2)
    return [resize(p2, p3.shape[-2:]), p3, p4, p5, resize(p6, p5.shape[-2:])]


def coordinates(x: Tensor) -> Tensor:
    """float[b, 2, h, w]: x and y of the middle of each cell, the image going from -1 to 1 (CoordConv)."""
    ys, xs = (((torch.arange(n, device=x.device) + 0.5) / n * 2 - 1) for n in x.shape[-2:])
    both = torch.stack(torch.meshgrid(xs, ys, indexing="xy"))
    return both.expand(x.shape[0], -1, -1, -1)


def group_norm(channels: int) -> nn.GroupNorm:
    """32 groups, fewer where those would have less than four channels."""
    return nn.GroupNorm(math.gcd(32, channels // 4, channels), channels)


def tower(inputs: int, channels: int, depth: int) -> nn.Sequential:
    widths = [inputs, *[channels] * depth]
    return nn.Sequential(*(Conv2dNormActivation(a, b, 3, norm_layer=group_norm) for a, b in pairwise(widths)))


def initialise(*modules: nn.Module, prior: float = 0.5) -> None:
    """Small weights; what comes out of a sigmoid behind them is `prior`."""
    for layer in (layer for module in modules for layer in module.modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.constant_(layer.bias, math.log(prior / (1 - prior)))


class GridBranch(nn.Module):
    """Each level aligned to its grid, convolutions that all levels share -> what each cell says, [b, cells, outputs];
    the levels one behind the other, each row by row."""

    def __init__(self, grids: Sequence[int], inputs: int, channels: int, depth: int, outputs: int):
        super().__init__()
        self.grids = tuple(grids)
        self.tower = tower(inputs, channels, depth)
        self.say = nn.Conv2d(channels, outputs, 3, padding=1)

    def forward(self, levels: list[Tensor]) -> Tensor:
        aligned = [resize(level, (grid, grid)) for level, grid in zip(levels, self.grids, strict=True)]
        return torch.cat([self.say(self.tower(x)).flatten(2) for x in aligned], dim=2).transpose(1, 2)


class GridModel(SegmentationModel):
    """Its `forward` gives "category", the class logits[b, cells, things], and what `masks` needs."""

    stride = 32

    def __init__(self, *, classes: Classes, grids: Sequence[int], scale: float):
        super().__init__()
        self.things = truths.things_of(classes, type(self).__name__.lower())
        self.grids = tuple(grids)
        self.sizes = [(scale * least, scale * most) for least, most in SIZES]
        self.cells = [grid * grid for grid in self.grids]

    def masks(self, outputs: Outputs, image: int, level: int, cells: Tensor) -> Tensor:
        """Probabilities[n, h, w] of the masks of some cells of a level, in one image of the batch."""
        raise NotImplementedError

    def losses(self, outputs: Outputs, targets: Targets, pixel_loss: PixelLoss) -> dict[str, Tensor]:
        found = [truths.of(t, self.things) for t in targets.instances]
        owners = [assign(truth, self.grids, self.sizes) for truth in found]
        return {
            "classifier": self._category_loss(outputs["category"].float(), found, owners),
            "mask": MASK_WEIGHT * self._mask_loss(outputs, found, owners),
        }

    @torch.no_grad()
    def predict(self, outputs: Outputs, sizes: list[tuple[int, int]]) -> list[Prediction]:
        scores = self._peaks(outputs["category"].float().sigmoid())
        found = (self._detect(outputs, i, scores[i], size) for i, size in enumerate(sizes))
        return [Prediction(instances=instances) for instances in found]

    def _category_loss(self, logits: Tensor, found: list[Truth], owners: list[Tensor]) -> Tensor:
        wanted, known = torch.zeros_like(logits), []
        for row, truth, owner in zip(wanted, found, owners, strict=True):
            owned = owner >= 0
            row[owned, truth.labels[owner[owned]]] = 1
            known.append(owned | ~crowded(truth.crowd, self.grids))
        each = sigmoid_focal_loss(logits, wanted) * torch.stack(known)[..., None]
        mean: Tensor = each.sum() / (wanted.sum() + 1)
        return mean

    def _mask_loss(self, outputs: Outputs, found: list[Truth], owners: list[Tensor]) -> Tensor:
        missed = []
        for i, (truth, owner) in enumerate(zip(found, owners, strict=True)):
            covered = shares(truth.masks, FINEST)
            for level, owned in enumerate(owner.split(self.cells)):
                cells = (owned >= 0).nonzero()[:, 0]
                # Without an object too: each weight gets a gradient of zeros, as data-parallel training asks for.
                masks = self.masks(outputs, i, level, cells)
                wanted = shares(covered[owned[cells]], covered.shape[-1] // masks.shape[-1])
                missed.append(dice(masks, wanted))
        each = torch.cat(missed)
        return each.sum() / max(len(each), 1)

    def _peaks(self, scores: Tensor) -> Tensor:
        """Points NMS (SOLOv2): a cell with a surer neighbour above, to the left, or between the two says nothing."""
        peaks = []
        for level, grid in zip(scores.split(self.cells, dim=1), self.grids, strict=True):
            square = level.transpose(1, 2).unflatten(2, (grid, grid))
            most = F.max_pool2d(square, 2, stride=1, padding=1)[:, :, :-1, :-1]
            peaks.append((square * (square == most)).flatten(2).transpose(1, 2))
        return torch.cat(peaks, dim=1)

    def _detect(self, outputs: Outputs, image: int, scores: Tensor, size: tuple[int, int]) -> Instances:
        sure, where = scores.flatten().topk(min(CANDIDATES, scores.numel()))
        where = where[sure > MIN_SCORE].sort().values  # level by level, as their masks are made
        cells, labels = where // len(self.things), where % len(self.things)
        probabilities = cut(self._masks_of_cells(outputs, image, cells), size, FINEST)
        masks = probabilities > 0.5
        inside = (probabilities * masks).sum(dim=(1, 2))
        maskness = inside / masks.sum(dim=(1, 2)).clamp(min=1)
        updated = matrix_nms(masks, labels, scores[cells, labels] * maskness)
        best, kept = updated.topk(min(FOUND, len(updated)))
        kept = kept[best > MIN_UPDATED]
        height, width = probabilities.shape[-2:]
        full = resize(probabilities[kept, None], (FINEST * height, FINEST * width))[:, 0]
        return results.instances(cut(full, size, 1) > 0.5, truths.ids_of(labels[kept], self.things), updated[kept])

    def _masks_of_cells(self, outputs: Outputs, image: int, cells: Tensor) -> Tensor:
        """Of all levels at the size of the first, in the order of the cells, which ascend."""
        starts = torch.tensor([0, *self.cells], device=cells.device).cumsum(dim=0)
        found = [
            self.masks(
                outputs, image, level, cells[(cells >= starts[level]) & (cells < starts[level + 1])] - starts[level]
            )
            for level in range(len(self.grids))
        ]
        return torch.cat([resize(masks[:, None], found[0].shape[-2:])[:, 0] for masks in found])


def assign(truth: Truth, grids: Sequence[int], sizes: Sequence[tuple[float, float]]) -> Tensor:
    """int64[cells]: the object that each cell of each level learns, or -1."""
    if not len(truth):
        return torch.full((sum(grid * grid for grid in grids),), -1, device=truth.labels.device)
    rows, columns = truth.masks.sum(dim=2), truth.masks.sum(dim=1)  # pixels of each object in each row of the image
    areas = rows.sum(dim=1)
    extent = truth.boxes[:, 2:].double() - truth.boxes[:, :2].double()
    side = extent.clamp(min=0).prod(dim=1).sqrt()
    by_size = areas.argsort(stable=True)
    owners = []
    for grid, (least, most) in zip(grids, sizes, strict=True):
        fits = (areas > 0) & (side >= least) & (side <= most)
        met = meets(rows, extent[:, 1], grid)[:, :, None] & meets(columns, extent[:, 0], grid)[:, None, :]
        claims = (met & fits[:, None, None])[by_size].flatten(1)
        owners.append(torch.where(claims.any(dim=0), by_size[claims.int().argmax(dim=0)], -1))
    return torch.cat(owners)


def meets(profile: Tensor, extent: Tensor, grid: int) -> Tensor:
    """bool[n, grid]: the rows that objects' centre regions meet, and at most the neighbours of the centre's own.
    `profile` int[n, height]: the objects' pixels in each row of the image. Likewise for columns."""
    length = profile.shape[1]
    middles = torch.arange(length, dtype=torch.float64, device=profile.device) + 0.5
    center = (profile * middles).sum(dim=1) / profile.sum(dim=1).clamp(min=1)
    half = extent * CENTER / 2
    low, own, high = ((at * grid / length).floor()[:, None] for at in (center - half, center, center + half))
    cells = torch.arange(grid, device=profile.device)
    return (cells >= torch.maximum(low, own - 1)) & (cells <= torch.minimum(high, own + 1))


def crowded(crowd: Tensor, grids: Sequence[int]) -> Tensor:
    """bool[h, w] -> bool[cells]: more than half of the cell is a crowd's."""
    return torch.cat([F.adaptive_avg_pool2d(crowd[None].float(), grid).flatten() > CROWD for grid in grids])


def shares(masks: Tensor, stride: int) -> Tensor:
    """bool or float[n, h, w] -> float[n, h / stride, w / stride]: how much of each cell a mask covers."""
    return F.avg_pool2d(masks[:, None].float(), stride)[:, 0]


def dice(found: Tensor, wanted: Tensor) -> Tensor:
    """1 - the Dice coefficient of each of n masks, with squares as in V-Net: least where both are equal, shares too."""
    common = (found * wanted).sum(dim=(1, 2))
    return 1 - 2 * common / (found.square().sum(dim=(1, 2)) + wanted.square().sum(dim=(1, 2)) + 0.002)


def cut(masks: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Without what lies beyond an image of (height, width)."""
    return masks[:, : math.ceil(size[0] / stride), : math.ceil(size[1] / stride)]
