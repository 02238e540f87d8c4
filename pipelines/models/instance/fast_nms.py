"""Fast NMS: Bolya, Zhou, Xiao, Lee, ICCV 2019 (arXiv 1904.02689), section 4.

Of the boxes of a class, best first, one is dropped that overlaps any better one, be that one dropped itself or not. So
there is nothing to wait for: the matrix of all overlaps, above its diagonal, and the largest of each column. It drops a
few more than the sequential NMS. Held against the definition, box by box.
"""

import torch
from torch import Tensor
from torchvision.ops import box_iou


def fast_nms(
    boxes: Tensor, scores: Tensor, *, iou: float, score: float, per_class: int, total: int
) -> tuple[Tensor, Tensor, Tensor]:
    """boxes[n, 4], scores[n, classes] -> rows of boxes, classes and scores of those that stay, best first.

    Only the best `per_class` of each class are looked at, and of all that stay, the best `total` are kept.
    """
    best, rows = scores.T.topk(min(per_class, len(boxes)), dim=1)
    ranked = boxes[rows]
    overlap = box_iou(ranked, ranked).triu(diagonal=1)
    stays = (overlap.amax(dim=1) <= iou) & (best > score) if len(boxes) else best > score
    labels = torch.arange(len(best), device=boxes.device)[:, None].expand_as(rows)
    kept, order = best[stays].sort(descending=True, stable=True)
    order = order[:total]
    return rows[stays][order], labels[stays][order], kept[:total]
