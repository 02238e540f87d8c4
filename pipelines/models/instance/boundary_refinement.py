"""Mask-based boundary refinement: Wang et al., AAAI 2020 (arXiv 1912.05070), section 3.3.

Where does a box end, given its mask? By Bayes: near where the detector says (the prior, a Gaussian whose deviation is a
share of the box's size), and where the mask begins (the likelihood: the mask's largest value in each column or row, run
through a convolution of nine values and a sigmoid). One kernel serves all four sides: right and bottom are read from
the other end.

Deviations: a mask's profile is scaled up to pixels, not the mask; far from the box the prior is small, not cut to 0;
the kernel begins as a step, and learns from true boxes that are moved by as much as the prior expects, with the masks
as they are (the authors' code has the values of theirs, and no training of them). Held against Bayes' rule, pixel by
pixel.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GAMMA = 0.05  # the prior's deviation, of a box's width or height; a pixel at least
KERNEL = 9  # pixels


class BoundaryRefinement(nn.Module):
    """columns[n, width], rows[n, height]: profiles of masks, 0..1; boxes[n, 4] that are to be refined."""

    def __init__(self) -> None:
        super().__init__()
        self.likelihood = nn.Conv1d(1, 1, KERNEL, padding=KERNEL // 2)
        step = torch.tensor([0.0, 0, -1, -2, 2, 1, 0, 0, 0])  # no mask before it, a mask from it on
        with torch.no_grad():
            self.likelihood.weight.copy_(step.view(1, 1, -1))
            nn.init.constant_(self.likelihood.bias, -2.0)  # type: ignore[arg-type]

    def forward(self, columns: Tensor, rows: Tensor, boxes: Tensor) -> list[Tensor]:
        """Log-probabilities[n, width or height] of where left, top, right and bottom are, each from its own end."""
        profiles = (columns, rows, columns.flip(1), rows.flip(1))
        ends = from_ends(boxes, columns, rows).unbind(dim=1)
        spread = deviations(boxes).unbind(dim=1)
        return [self._side(profile, ends[k], spread[k]) for k, profile in enumerate(profiles)]

    def _side(self, profile: Tensor, end: Tensor, spread: Tensor) -> Tensor:
        pixels = torch.arange(profile.shape[1], device=profile.device)
        prior = -((pixels - end[:, None]) ** 2) / (2 * spread[:, None] ** 2)
        likelihood = F.logsigmoid(self.likelihood(profile[:, None]))[:, 0]
        return (prior + likelihood).log_softmax(dim=1)

    def refine(self, columns: Tensor, rows: Tensor, boxes: Tensor) -> Tensor:
        """The likeliest box; one whose likeliest sides cross stays as it is."""
        ends = torch.stack([side.argmax(dim=1) for side in self(columns, rows, boxes)], dim=1)
        refined = from_ends(ends.to(boxes.dtype), columns, rows)
        is_box = (refined[:, :2] < refined[:, 2:]).all(dim=1)
        return torch.where(is_box[:, None], refined, boxes)

    def loss(self, columns: Tensor, rows: Tensor, truths: Tensor) -> Tensor:
        """Per object: the cross-entropy of its four sides. Boxes are moved at random, by torch's generator."""
        moved = truths + torch.randn_like(truths) * deviations(truths)
        ends = from_ends(truths, columns, rows).round().long()
        sides = zip(self(columns, rows, moved), ends.unbind(dim=1), strict=True)
        wrong = [-side.gather(1, end.clamp(0, side.shape[1] - 1)[:, None])[:, 0] for side, end in sides]
        return torch.stack(wrong).mean(dim=0)


def deviations(boxes: Tensor) -> Tensor:
    """The prior's, of each of the four sides."""
    spread = ((boxes[:, 2:] - boxes[:, :2]) * GAMMA).clamp(min=1)
    return torch.cat([spread, spread], dim=1)


def from_ends(boxes: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """x1, y1, x2, y2 -> pixels before the box on the left, above, on the right, below; and back again."""
    size = boxes.new_tensor([columns.shape[1], rows.shape[1]])
    return torch.cat([boxes[:, :2], size - boxes[:, 2:]], dim=1)


def profiles(masks: Tensor, stride: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """0..1[n, h, w] on cells -> its largest value in each column[n, width] and in each row[n, height] of pixels."""
    height, width = size
    largest = (masks.amax(dim=1), masks.amax(dim=2))
    columns, rows = (F.interpolate(values[:, None], scale_factor=stride, mode="linear")[:, 0] for values in largest)
    return columns[:, :width], rows[:, :height]
