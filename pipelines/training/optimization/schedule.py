"""Learning rates as pure functions of the step: there is no scheduler state to lose on resume."""

import math
from collections.abc import Callable

# progress in [0, 1] after the warm-up -> a factor of the base rate
AFTER_WARMUP: dict[str, Callable[[float], float]] = {
    "poly": lambda progress: math.pow(1 - progress, 0.9),  # ParseNet's (arXiv 1506.04579), and DeepLab's since v2
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,  # SGDR's (arXiv 1608.03983), of one cycle
    "constant": lambda progress: 1.0,
}
# One-cycle's factors of the base rate at its first and its last step.
FIRST, LAST = 1 / 25, 1 / 25e4


def learning_rate(step: int, *, steps: int, base: float, schedule: str, warmup: float) -> float:
    """Of step 0 .. steps - 1: a linear warm-up over the first `warmup` of all steps, then the schedule."""
    if schedule == "one_cycle":
        return one_cycle(step, steps=steps, base=base, warmup=warmup)
    warm = round(warmup * steps)
    if step < warm:
        return base * (step + 1) / (warm + 1)
    return base * AFTER_WARMUP[schedule]((step - warm) / max(1, steps - warm))


def one_cycle(step: int, *, steps: int, base: float, warmup: float) -> float:
    """Half a cosine up, half a cosine down to far below the start (Smith and Topin, arXiv 1708.07120), with the numbers
    of torch's OneCycleLR, whose peak lies one step before the warm-up's end."""
    peak, end = warmup * steps - 1, steps - 1
    if step <= peak:
        return base * _between(FIRST, 1.0, step / peak if peak else 1.0)
    return base * _between(1.0, LAST, (step - peak) / (end - peak))


def _between(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def base_rate(rate: float, *, scaling: str, batch_size: int, reference_batch: int) -> float:
    """`rate`, which is for a global batch of `reference_batch` images, for one of `batch_size`: in proportion to it
    (Goyal et al., arXiv 1706.02677), or to its root (Krizhevsky, arXiv 1404.5997)."""
    ratio = batch_size / reference_batch
    factors = {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}
    return rate * factors[scaling]
