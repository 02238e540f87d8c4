"""Labels that follow resemblance: each place of a frame takes those of the places that it resembles most, in frames
whose labels are known (Jabri et al., "Space-Time Correspondence as a Contrastive Random Walk", 2020; so are the
features of DINO measured, Caron et al. 2021).

A few places of a row at a time, against what lies within the radius: neither memory nor time is spent on more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Known = tuple[Tensor, Tensor]  # float32[c, h, w] unit features, float32[k, h, w] labels


def carry(query: Tensor, known: Sequence[Known], *, radius: int, most: int, temperature: float) -> Tensor:
    """float32[c, h, w] -> its labels float32[k, h, w]; `radius` in places, `most` of them count."""
    height, width = query.shape[1:]
    rows = []
    for y in range(height):
        around = slice(max(0, y - radius), min(height, y + radius + 1))
        parts = []
        for left in range(0, width, 2 * radius + 1):
            right = min(left + 2 * radius + 1, width)
            columns = torch.arange(max(0, left - radius), min(width, right + radius))
            window = (slice(None), around, slice(int(columns[0]), int(columns[-1]) + 1))
            keys, labels = (
                torch.cat([part[window].flatten(1) for part in each], dim=1) for each in zip(*known, strict=True)
            )
            similarity = query[:, y, left:right].T @ keys
            beyond = (torch.arange(left, right)[:, None] - columns).abs() > radius
            similarity.view(right - left, -1, columns.numel()).masked_fill_(beyond[:, None], -torch.inf)
            best, where = similarity.topk(min(most, similarity.shape[1]), dim=1)
            parts.append((labels[:, where] * (best / temperature).softmax(dim=1)).sum(dim=2))
        rows.append(torch.cat(parts, dim=1))
    return torch.stack(rows, dim=1)
