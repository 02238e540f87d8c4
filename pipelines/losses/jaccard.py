"""Soft Jaccard, or IoU (Rahman & Wang 2016, doi 10.1007/978-3-319-50835-1_22): 1 - sum(p g) / sum(p + g - p g), the
mean over the classes that occur."""

from torch import Tensor

from pipelines.losses.regions import Regions, mean_of_present
from pipelines.targets import Targets


def jaccard(logits: Tensor, targets: Targets) -> Tensor:
    regions = Regions.of(logits, targets)
    overlap, pixels = regions.overlap(), regions.pixels()
    # As in Dice, a class that occurs has a union of 1 at least.
    return mean_of_present(1 - overlap / (regions.area() + pixels - overlap).clamp(min=1), pixels)
