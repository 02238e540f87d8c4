"""Windows that slide over an image: for images larger than memory allows, and for networks that see a border.

With `overlap` neighbouring windows are blended, with weights that fall towards their edges, so that no seam shows.
With `context` each window sees that many pixels around what it predicts, mirrored where the image ends: U-Net's
overlap-tile strategy (arXiv 1505.04597, figure 2). Where the context covers all that the network's answer depends on,
and windows begin at multiples of its stride, the tiles give what the whole image gives.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Ask = Callable[[Tensor], Tensor]  # images[b, 3, h, w] -> probabilities[b, c, h, w]


def windows(ask: Ask, images: Tensor, *, tile: tuple[int, int], overlap: float, context: int, stride: int) -> Tensor:
    """The probabilities of whole images, from those of windows of `tile` pixels."""
    height, width = images.shape[-2:]
    size = (min(tile[0], height), min(tile[1], width))
    surrounded, fade = mirrored(images, context), blending(size, overlap).to(images)
    total, weights = images.new_zeros(()), images.new_zeros((height, width))
    for top in starts(height, size[0], overlap, stride):
        for left in starts(width, size[1], overlap, stride):
            window = surrounded[..., top : top + size[0] + 2 * context, left : left + size[1] + 2 * context]
            found = ask(window)[..., context : context + size[0], context : context + size[1]]
            if not total.ndim:  # how many classes there are shows with the first
                total = found.new_zeros((*found.shape[:2], height, width))
            total[..., top : top + size[0], left : left + size[1]] += found * fade
            weights[top : top + size[0], left : left + size[1]] += fade
    return total / weights


def starts(length: int, window: int, overlap: float, stride: int) -> list[int]:
    """Where windows begin: multiples of `stride` as far as can be, the last one flush with the end."""
    step = max(1, int(window * (1 - overlap)))
    step = step // stride * stride or step
    return [*range(0, length - window, step), length - window]


def blending(size: tuple[int, int], overlap: float) -> Tensor:
    """float[h, w] in 0..1, above 0: rises over the overlapped border, and is flat inside."""
    ramps = []
    for length in size:
        border = max(1, int(length * overlap))
        position = torch.arange(length, dtype=torch.float32)
        ramps.append(((torch.minimum(position, length - 1 - position) + 1) / border).clamp(max=1))
    return ramps[0][:, None] * ramps[1]


def mirrored(images: Tensor, margin: int) -> Tensor:
    """The images with `margin` more pixels on each side, mirrored as often as it takes."""
    if not margin:
        return images
    for dim in (-2, -1):
        length = images.shape[dim]
        period = max(1, 2 * (length - 1))
        position = torch.arange(-margin, length + margin, device=images.device) % period
        images = images.index_select(dim, torch.minimum(position, period - position))
    return images
