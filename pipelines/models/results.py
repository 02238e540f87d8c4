"""From a model's tensors to what the house calls a prediction."""

import torch
from torch import Tensor

from pipelines.data.prediction import Instances


def instances(masks: Tensor, labels: Tensor, scores: Tensor, boxes: Tensor | None = None) -> Instances:
    """bool[n, h, w], class ids, 0..1, and boxes where the model has its own. A mask without a pixel claims nothing."""
    seen = masks.flatten(1).any(dim=1)
    masks = masks[seen]
    own = boxes_of(masks) if boxes is None else boxes[seen]
    return Instances(
        masks=masks.cpu().numpy(),
        labels=labels[seen].cpu().numpy(),
        scores=scores[seen].float().clamp(0, 1).cpu().numpy(),
        boxes=own.float().cpu().numpy(),
    )


def boxes_of(masks: Tensor) -> Tensor:
    """bool[n, h, w], none of them empty -> float32[n, 4]: x1, y1, x2, y2."""
    n, height, width = masks.shape
    rows, cols = masks.any(dim=2), masks.any(dim=1)
    if not n:
        return masks.new_zeros((0, 4), dtype=torch.float32)
    x1, y1 = cols.int().argmax(dim=1), rows.int().argmax(dim=1)
    x2, y2 = width - cols.flip(1).int().argmax(dim=1), height - rows.flip(1).int().argmax(dim=1)
    return torch.stack([x1, y1, x2, y2], dim=1).float()
