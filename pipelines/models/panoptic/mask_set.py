"""How a set of masks with classes learns from the segments of an image: Mask2Former (arXiv 2112.01527, section 3.3).

Each segment is matched with the query that fits it best, at random points of the image; that query learns its class
and, at points where its mask is in doubt (PointRend, arXiv 1912.08193), its mask; the other queries learn to be no
object. All states of the queries learn so, each with a matching of its own.

Deviations: images below 224x224 have fewer points than the paper's 12544, one for four pixels. A point takes the truth
of the pixel that it lies in, where the authors blend the nearest four. All states are matched at the same points.
Unknown pixels (crowds, what is ignored, padding) count nowhere: no point there has weight, and a query without segment
whose mask lies mostly there is not told to be no object.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.models.contract import Outputs
from pipelines.models.matching import match

POINTS, PIXELS_PER_POINT = 12544, 4
OVERSAMPLED, DOUBTFUL = 3, 0.75  # of the drawn points a third is kept, three quarters of them for their doubt
CLASSIFIER, MASK, DICE = 2.0, 5.0, 5.0  # weights, of costs and of losses
NO_OBJECT = 0.1  # weight of a query without segment
UNKNOWN = 0.5  # share of a mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """The truth of one image."""

    labels: Tensor  # int64[n]: positions among the model's classes
    masks: Tensor  # bool[n, h, w]
    known: Tensor  # bool[h, w]

    @property
    def points(self) -> int:
        return min(POINTS, self.known.numel() // PIXELS_PER_POINT)

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and columns of the pixels that points[..., 2] lie in."""
        height, width = self.known.shape
        size = torch.tensor([width, height], device=points.device)
        x, y = (points * size).long().minimum(size - 1).unbind(-1)
        return y, x


def losses(outputs: Outputs, truths: list[Segments]) -> dict[str, Tensor]:
    """Of "classes"[b, states, q, classes + 1], and of masks as products of "embeddings"[b, states, q, c] and
    "pixels"[b, c, h, w]: the sums over the states, weighted as in the paper."""
    classes, embeddings, pixels = (outputs[key].float() for key in ("classes", "embeddings", "pixels"))
    wanted = torch.full(classes.shape[:3], classes.shape[3] - 1, device=classes.device)
    weights = torch.full(classes.shape[:3], NO_OBJECT, device=classes.device)
    mask, dice, matched = [], [], 0
    for i, truth in enumerate(truths):
        pairs, excused = assign(classes[i], embeddings[i], pixels[i], truth)
        state, (query, segment) = torch.arange(len(pairs), device=pairs.device)[:, None], pairs.unbind(1)
        weights[i][excused] = 0
        weights[i, state, query] = 1
        wanted[i, state, query] = truth.labels[segment]
        masks = torch.einsum("sqc,chw->sqhw", embeddings[i, state, query], pixels[i]).flatten(0, 1)
        missed, apart = mask_losses(masks, truth, segment.flatten())
        mask.append(missed.sum())
        dice.append(apart.sum())
        matched += pairs.shape[-1]
    crossed = F.cross_entropy(classes.permute(0, 3, 1, 2), wanted, reduction="none") * weights
    classifier = (crossed.sum(dim=(0, 2)) / weights.sum(dim=(0, 2)).clamp(min=NO_OBJECT)).sum()
    return {
        "classifier": CLASSIFIER * classifier,
        "mask": MASK * torch.stack(mask).sum() / max(1, matched),
        "dice": DICE * torch.stack(dice).sum() / max(1, matched),
    }


@torch.no_grad()
def assign(classes: Tensor, embeddings: Tensor, pixels: Tensor, truth: Segments) -> tuple[Tensor, Tensor]:
    """Of one image: int64[states, 2, n], the query of each segment; and bool[states, q], who may be left alone."""
    points = torch.rand(truth.points, 2, device=pixels.device)
    logits = embeddings @ sample(pixels[None], points[None])[0]  # [states, q, points]
    y, x = truth.at(points)
    masks, known = truth.masks[:, y, x].float(), truth.known[y, x].float()
    costs = -CLASSIFIER * classes.softmax(dim=-1)[..., truth.labels] + mask_costs(logits, masks, known)
    claimed = (logits > 0).float()
    excused = (claimed @ known < (1 - UNKNOWN) * claimed.sum(dim=-1)) | ~known.bool().any()
    return match(costs), excused


def mask_costs(logits: Tensor, masks: Tensor, known: Tensor) -> Tensor:
    """Of logits[..., q, points] with each of masks[n, points] -> [..., q, n]: the losses below, by products."""
    wanted = (masks * known).T
    total = known.sum().clamp(min=1)
    crossed = (F.softplus(logits) @ known)[..., None] - logits @ wanted
    share = logits.sigmoid()
    both, either = share @ wanted, (share @ known)[..., None] + wanted.sum(dim=0)
    return MASK * crossed / total + DICE * (1 - (2 * both + 1) / (either + 1))


def mask_losses(masks: Tensor, truth: Segments, segments: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy[m] and Dice[m] of mask logits[m, h, w], each with its segment, at points of its own."""
    points = doubtful(masks.detach(), truth.points)
    logits = sample(masks[:, None], points)[:, 0]
    y, x = truth.at(points)
    wanted, known = truth.masks[segments[:, None], y, x].float(), truth.known[y, x].float()
    crossed = F.binary_cross_entropy_with_logits(logits, wanted, known, reduction="none").sum(dim=1)
    share = logits.sigmoid() * known
    both, either = (share * wanted).sum(dim=1), share.sum(dim=1) + (wanted * known).sum(dim=1)
    return crossed / known.sum(dim=1).clamp(min=1), 1 - (2 * both + 1) / (either + 1)


@torch.no_grad()
def doubtful(masks: Tensor, count: int) -> Tensor:
    """count points[m, count, 2] of mask logits[m, h, w]: most of them where these are near 0, the others anywhere."""
    drawn = torch.rand(len(masks), OVERSAMPLED * count, 2, device=masks.device)
    chosen = int(DOUBTFUL * count)
    least = sample(masks[:, None], drawn)[:, 0].abs().topk(chosen, dim=1, largest=False).indices
    near = drawn.gather(1, least[..., None].expand(-1, -1, 2))
    return torch.cat([near, torch.rand(len(masks), count - chosen, 2, device=masks.device)], dim=1)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """maps[b, c, h, w] at points[b, n, 2], (x, y) as shares of the map -> [b, c, n]"""
    return F.grid_sample(maps, 2 * points[:, :, None] - 1, align_corners=False)[..., 0]
