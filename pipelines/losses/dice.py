"""Soft Dice, and its form for classes of very different sizes."""

from torch import Tensor

from pipelines.losses.means import ratio
from pipelines.losses.regions import PIXELS, Regions, mean_of_present
from pipelines.targets import Targets


def dice(logits: Tensor, targets: Targets, *, squared: bool) -> Tensor:
    """1 - 2 sum(p g) / (sum(p) + sum(g)), or with `squared` 1 - 2 sum(p g) / (sum(p^2) + sum(g^2)), the form of V-Net
    (Milletari et al. 2016, arXiv 1606.04797); the mean over the classes that occur."""
    regions = Regions.of(logits, targets)
    area, pixels = regions.predicted.square().sum(dim=PIXELS) if squared else regions.area(), regions.pixels()
    # 1 is the least that a class which occurs can have here: it only keeps 0 / 0 out of the others.
    score = 2 * regions.overlap() / (area + pixels).clamp(min=1)
    return mean_of_present(1 - score, pixels)


def generalized_dice(logits: Tensor, targets: Targets) -> Tensor:
    """One score for all classes, each weighted by 1 / pixels^2 (Sudre et al. 2017, arXiv 1707.03237). A class that
    does not occur, whose weight would be infinite, has none."""
    regions = Regions.of(logits, targets)
    pixels = regions.pixels()
    present = pixels > 0
    # The scale of the weights cancels: that of the smallest class is 1, so that nothing here is too small for float32.
    least = pixels.where(present, pixels.sum()).min()
    weights = (least / pixels.clamp(min=1)).square() * present
    overlap, areas = weights * regions.overlap(), weights * (regions.area() + pixels)
    return ratio((areas - 2 * overlap).sum(), areas.sum())
