"""Set prediction: which of a model's queries answers for which object (DETR, arXiv 2005.12872, section 3.1).

The cost of giving each truth a query of its own is the least in sum (scipy's Hungarian method).
"""

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def match(costs: Tensor) -> Tensor:
    """costs[k, queries, truths] of k problems of their own -> int64[k, 2, min(queries, truths)]: pairs of rows and
    columns, in the order of the rows. Without enough queries some truths get none."""
    finite = torch.nan_to_num(costs.detach().float(), nan=1e6, posinf=1e6, neginf=-1e6)  # the loss will tell of them
    pairs = [torch.stack([torch.from_numpy(part) for part in linear_sum_assignment(c)]) for c in finite.cpu().numpy()]
    return torch.stack(pairs).to(costs.device)
