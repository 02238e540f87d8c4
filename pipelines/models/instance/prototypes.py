"""Masks as products: maps that an image has once, times one vector per object; and the boxes that they are cut to."""

import torch
import torch.nn.functional as F
from torch import Tensor

AT_ONCE = 32  # masks that are scaled up at a time: of an image of 1000x1000, each takes 4 MB


def cells(masks: Tensor, stride: int) -> Tensor:
    """bool[n, h, w] -> bool[n, h / stride, w / stride]: at least two of the four pixels in the middle of each cell."""
    middle = (stride // 2 - 1, stride // 2)
    inner = [masks[:, y::stride, x::stride] for y in middle for x in middle]
    return torch.stack([pixel.to(torch.uint8) for pixel in inner]).sum(dim=0) >= 2


def inside(boxes: Tensor, size: tuple[int, int], stride: int = 1) -> Tensor:
    """bool[n, h, w] for a map of that size: the cells whose middle lies in each box."""
    y, x = ((torch.arange(side, device=boxes.device) + 0.5) * stride for side in size)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(dim=1)
    columns, rows = (x > x1) & (x < x2), (y > y1) & (y < y2)
    return rows[:, :, None] & columns[:, None, :]


def grown(boxes: Tensor, share: float, least: float) -> Tensor:
    """Each side moved out by a share of the width or height, and by `least` pixels at least."""
    margin = ((boxes[:, 2:] - boxes[:, :2]) * share).clamp(min=least)
    return torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)


def paint(logits: Tensor, boxes: Tensor, stride: int, size: tuple[int, int], threshold: float = 0.0) -> Tensor:
    """logits[n, h, w] on cells -> bool[n, height, width]: the pixels in each box whose logit is above a threshold."""
    height, width = size
    masks = []
    for some, box in zip(logits.split(AT_ONCE), boxes.split(AT_ONCE), strict=True):
        full = F.interpolate(some[:, None], scale_factor=stride, mode="bilinear", align_corners=False)[:, 0]
        masks.append((full[:, :height, :width] > threshold) & inside(box, size))
    return torch.cat(masks)
