"""UPSNet's panoptic head (arXiv 1901.03784, sections 3.1 and 3.3), which has no weights: scores of the stuff, of each
instance and of the unknown, the truth that they are to tell, and what is done around them in use.

Instances are known by their boxes, their positions in the list of things, and the logits of their masks.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from pipelines.data.prediction import Instances
from pipelines.data.schema import IGNORE
from pipelines.models.instance import truths
from pipelines.models.panoptic import merging

CELLS = 28  # of a mask in each direction
BOX_OVERLAP = 0.5  # above which the less certain of two boxes is dropped, whatever their classes
MAJORITY = 0.5  # the share of an instance's pixels that makes it stuff
VOID = -1  # not IGNORE: with so many instances, 255 is one of them


def panoptic_scores(
    semantic: tuple[Tensor, Tensor], boxes: Tensor, labels: Tensor, masks: Tensor, *, step: int = 1, top: int = 0
) -> Tensor:
    """Scores of stuff and things, [stuff, h, w] and [things, h, w], every `step` pixels from row `top` on; n instances
    -> [stuff + n + 1, h, w]: the paper's equations 1 and 2."""
    stuff, things = semantic
    rows, columns = (torch.arange(size, device=stuff.device) + 0.5 for size in stuff.shape[-2:])
    down = stretched(boxes[:, 1], boxes[:, 3], rows * step + top)
    across = stretched(boxes[:, 0], boxes[:, 2], columns * step)
    inside = down.any(dim=2)[:, :, None] & across.any(dim=2)[:, None, :]
    own = things[labels] * inside
    unknown = things.amax(dim=0) - (own.amax(dim=0) if len(own) else 0)
    return torch.cat([stuff, own + down @ masks @ across.mT, unknown[None]])


def stretched(low: Tensor, high: Tensor, places: Tensor) -> Tensor:
    """float[n, places, 28]: what each cell of a mask that lies between low[n] and high[n] weighs at each place, by
    linear interpolation; nothing outside."""
    at = (places - low[:, None]) / (high - low)[:, None]
    cell = (at * CELLS - 0.5).clamp(0, CELLS - 1)[..., None]
    weight = (1 - (cell - torch.arange(CELLS, device=places.device)).abs()).clamp(min=0)
    return weight * ((at >= 0) & (at < 1))[..., None]


def panoptic_truth(semantic: Tensor, truth: truths.Truth, shown: Tensor, stuff: Tensor, *, step: int) -> Tensor:
    """int64[h / step, w / step]: a position among the scores. Where instances overlap, the first is in front; things
    that are not `shown` are the unknown; VOID where nothing is known, and in crowds."""
    grid = (slice(step // 2, None, step),) * 2
    unknown = len(stuff) + len(shown)
    table = torch.full((IGNORE + 1,), unknown, device=semantic.device)
    table[stuff] = torch.arange(len(stuff), device=semantic.device)
    table[IGNORE] = VOID
    wanted = table[semantic[grid]].masked_fill(truth.crowd[grid], VOID)
    if not len(truth):
        return wanted
    place = torch.full((len(truth),), unknown, device=semantic.device)
    place[shown] = torch.arange(len(stuff), unknown, device=semantic.device)
    masks = truth.masks[(slice(None), *grid)]
    return torch.where(masks.any(dim=0), place[masks.int().argmax(dim=0)], wanted)


def thin(found: Instances, min_score: float, max_overlap: float) -> np.ndarray:
    """Rows of those instances that the panoptic head is given."""
    sure = np.flatnonzero(found.scores >= min_score)
    boxes, scores = torch.from_numpy(found.boxes[sure]), torch.from_numpy(found.scores[sure])
    rows = sure[nms(boxes, scores, BOX_OVERLAP).numpy()]
    labels = found.labels[rows]
    apart = [merging.occupy(found.masks, rows[labels == c], max_overlap)[1] for c in np.unique(labels)]
    return np.concatenate([*apart, np.zeros(0, np.int64)])


def split(owner: np.ndarray, semantic: np.ndarray, count: int, stuff: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Positions among stuff, instances and the unknown -> ids of the instances, int32[h, w], and the class of stuff of
    each other pixel, IGNORE for the unknown. An instance that is mostly one stuff to the semantic head becomes that."""
    numbers = np.append(np.zeros(len(stuff), np.int32), np.append(np.arange(1, count + 1, dtype=np.int32), 0))
    ids = numbers[owner]
    votes = np.bincount(ids.reshape(-1) * 256 + semantic.reshape(-1), minlength=(count + 1) * 256).reshape(-1, 256)[1:]
    winner = votes.argmax(axis=1)
    turned = (votes.max(axis=1, initial=0) > MAJORITY * votes.sum(axis=1)) & np.isin(winner, stuff)
    names = np.concatenate([stuff, np.where(turned, winner, IGNORE), [IGNORE]]).astype(np.uint8)
    return np.append(0, np.where(turned, 0, np.arange(1, count + 1)))[ids].astype(np.int32), names[owner]
