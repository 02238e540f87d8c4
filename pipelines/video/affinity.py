"""Labels that follow resemblance: each place of a frame takes those of the places that it resembles most, in frames
whose labels are known (Jabri et al., "Space-Time Correspondence as a Contrastive Random Walk", 2020; so are the
features of DINO measured, Caron et al. 2021).

One row of places at a time, against the rows that lie within the radius: memory grows with a frame's width, not with
its area.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Known = tuple[Tensor, Tensor]  # float32[c, h, w] unit features, float32[k, h, w] labels


def carry(query: Tensor, known: Sequence[Known], *, radius: int, most: int, temperature: float) -> Tensor:
    """float32[c, h, w] -> its labels float32[k, h, w]; `radius` in places, `most` of them count."""
    _, height, width = query.shape
    columns = torch.arange(width)
    beyond = (columns[:, None] - columns).abs() > radius  # [query, key]
    rows = []
    for y in range(height):
        top, bottom = max(0, y - radius), min(height, y + radius + 1)
        keys = torch.cat([features[:, top:bottom].flatten(1) for features, _ in known], dim=1)
        labels = torch.cat([each[:, top:bottom].flatten(1) for _, each in known], dim=1)
        similarity = query[:, y].T @ keys
        similarity.view(width, -1, width).masked_fill_(beyond[:, None], -torch.inf)
        best, where = similarity.topk(min(most, similarity.shape[1]), dim=1)
        weights = (best / temperature).softmax(dim=1)
        rows.append((labels[:, where] * weights).sum(dim=2))
    return torch.stack(rows, dim=1)
