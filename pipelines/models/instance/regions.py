"""Boxes as regions of feature maps and of masks: pooled from, cut out, pasted back.

Unlike torchvision's parts of the same names, all three take a pixel as an area (`aligned` RoIAlign): torchvision's
shift features by half a cell and truncate boxes to whole pixels. A disc 16 pixels wide that is cut out of a box near
its own and pasted back keeps an IoU of 0.97 here, and of 0.89 there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, roi_align
from torchvision.ops.poolers import LevelMapper


def pool(features: list[Tensor], strides: tuple[int, ...], boxes: list[Tensor], size: int, unit: int) -> Tensor:
    """size x size features of each box, from the pyramid level that its area names: a box of `unit` x `unit` pixels
    belongs to stride 16 (Lin et al. 2017, arXiv 1612.03144, equation 1)."""
    finest, coarsest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    level = LevelMapper(finest, coarsest, canonical_scale=unit, canonical_level=4)(boxes)
    rois = _rois(boxes)
    pooled = features[0].new_zeros(len(rois), features[0].shape[1], size, size)
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = torch.where(level == i)[0]
        pooled[here] = roi_align(feature, rois[here], size, 1 / stride, sampling_ratio=2, aligned=True)
    return pooled


def _rois(boxes: list[Tensor]) -> Tensor:
    """boxes[n, 4] per image -> [sum n, 5], the position of the image in front."""
    return torch.cat([F.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])


def cut(masks: Tensor, which: Tensor, boxes: Tensor, size: int) -> Tensor:
    """float[n, size, size] of 0 and 1: what mask `which[k]` holds within box k, at least half of a cell counting."""
    rois = torch.cat([which[:, None].to(boxes.dtype), boxes], dim=1)
    cells: Tensor = roi_align(masks[:, None].to(boxes.dtype), rois, size, aligned=True)
    return (cells[:, 0] >= 0.5).to(boxes.dtype)


def paste(probabilities: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """bool[n, height, width]: each box's square of probabilities at the box's place, where it is at least 0.5."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool)
    for mask, probability, (x1, y1, x2, y2) in zip(masks, probabilities, boxes.tolist(), strict=True):
        left, top = max(math.floor(x1), 0), max(math.floor(y1), 0)
        right, bottom = min(math.ceil(x2), width), min(math.ceil(y2), height)
        x = (torch.arange(left, right) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(top, bottom) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        # Beyond the square is 0, so that a full one fades through 0.5 exactly at the edge of the box.
        window = F.grid_sample(probability[None, None], grid[None], align_corners=False)[0, 0]
        mask[top:bottom, left:right] = window >= 0.5
    return masks


def covered(boxes: Tensor, regions: Tensor, share: float) -> Tensor:
    """bool[n]: more than `share` of the box lies within one of the regions[m, 4]."""
    corner = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    overlap = (opposite - corner).clamp(min=0).prod(dim=2)
    area: Tensor = box_area(boxes)
    return (overlap > share * area[:, None]).any(dim=1)
