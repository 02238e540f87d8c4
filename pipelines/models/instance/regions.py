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

AT_ONCE = 16  # masks that are pasted together: the memory is at most so many images of floats, thrice


def pool(features: list[Tensor], strides: tuple[int, ...], boxes: list[Tensor], size: int, unit: int) -> Tensor:
    """size x size features of each box, from the pyramid level that its area names: a box of `unit` x `unit` pixels
    belongs to stride 16 (Lin et al. 2017, arXiv 1612.03144, equation 1)."""
    finest, coarsest = (int(math.log2(stride)) for stride in (strides[0], strides[-1]))
    level = LevelMapper(finest, coarsest, canonical_scale=unit, canonical_level=4)(boxes)
    places = rois(boxes)
    pooled = features[0].new_zeros(len(places), features[0].shape[1], size, size)
    for i, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        here = torch.where(level == i)[0]
        pooled[here] = roi_align(feature, places[here], size, 1 / stride, sampling_ratio=2, aligned=True)
    return pooled


def rois(boxes: list[Tensor]) -> Tensor:
    """boxes[n, 4] per image -> [sum n, 5], the position of the image in front."""
    return torch.cat([F.pad(b, (1, 0), value=i) for i, b in enumerate(boxes)])


def cut(masks: Tensor, which: Tensor, boxes: Tensor, size: int) -> Tensor:
    """float[n, size, size] of 0 and 1: what mask `which[k]` holds within box k, at least half of a cell counting."""
    places = torch.cat([which[:, None].to(boxes.dtype), boxes], dim=1)
    cells: Tensor = roi_align(masks[:, None].to(boxes.dtype), places, size, aligned=True)
    return (cells[:, 0] >= 0.5).to(boxes.dtype)


def paste(probabilities: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """bool[n, height, width]: each box's square of probabilities at the box's place, where it is at least 0.5."""
    masks = torch.zeros(len(boxes), height, width, dtype=torch.bool, device=boxes.device)
    if not len(boxes):
        return masks
    low = boxes[:, :2].floor()
    extent = boxes[:, 2:].ceil() - low
    for these in extent.amax(dim=1).argsort().split(AT_ONCE):  # boxes of like size share that of a window
        wide, high = extent[these].amax(dim=0).long().tolist()
        x, y = _window(low[these, 0], wide, width), _window(low[these, 1], high, height)
        across, down = _within(x, boxes[these, 0], boxes[these, 2]), _within(y, boxes[these, 1], boxes[these, 3])
        grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=-1)
        # Beyond the square is 0, so that a full one fades through 0.5 exactly at the edge of the box.
        window = F.grid_sample(probabilities[these, None], grid, align_corners=False)[:, 0]
        masks[these[:, None, None], y[:, :, None], x[:, None]] = window >= 0.5
    return masks


def _window(first: Tensor, side: int, length: int) -> Tensor:
    """int64[n, side]: the pixels from `first` on, moved to lie within the image."""
    side = min(max(side, 1), length)
    return first.long().clamp(0, length - side)[:, None] + torch.arange(side, device=first.device)


def _within(pixels: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Where the pixels' middles are in the box: -1 to 1."""
    return (pixels + 0.5 - low[:, None]) / (high - low)[:, None] * 2 - 1


def filled(boxes: Tensor, height: int, width: int) -> Tensor:
    """bool[n, height, width]: the pixels whose middle is within the box."""
    x1, y1, x2, y2 = boxes[:, :, None].unbind(dim=1)
    y, x = (torch.arange(length, device=boxes.device) + 0.5 for length in (height, width))
    return ((y > y1) & (y < y2))[:, :, None] & ((x > x1) & (x < x2))[:, None, :]


def covered(boxes: Tensor, regions: Tensor, share: float) -> Tensor:
    """bool[n]: more than `share` of the box lies within one of the regions[m, 4]."""
    corner = torch.maximum(boxes[:, None, :2], regions[None, :, :2])
    opposite = torch.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    overlap = (opposite - corner).clamp(min=0).prod(dim=2)
    area: Tensor = box_area(boxes)
    return (overlap > share * area[:, None]).any(dim=1)
