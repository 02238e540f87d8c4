"""Markov random field: Geman, Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of
images", PAMI 1984; Besag, "On the statistical analysis of dirty pictures", JRSS B 1986.

Energy of a labelling = sum over pixels of -log P(class) + weight * the number of neighbours (four each) whose classes
differ: Potts' model. It is lowered by Gibbs sampling while the temperature falls to 0, then by iterated conditional
modes until nothing changes. A grid is a checkerboard: no two pixels of one colour are neighbours, so that half of them
are drawn at once. Settings: the weight. Fitted: the labeller's colours and places.
"""

import numpy as np

from pipelines.models.classical.base import Method
from pipelines.models.classical.labeller import normalised

SWEEPS, HOTTEST = 20, 1.0
MOST = 50  # sweeps of iterated conditional modes, which as a rule end after a few


def disagreement(labels: np.ndarray, classes: int) -> np.ndarray:
    """int[h, w] -> float32[classes, h, w]: how many neighbours would differ from each class."""
    own = np.pad(labels[None] == np.arange(classes)[:, None, None], ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    there = np.pad(np.ones(labels.shape, np.float32), 1)
    around = [(slice(0, -2), slice(1, -1)), (slice(2, None), slice(1, -1)),
              (slice(1, -1), slice(0, -2)), (slice(1, -1), slice(2, None))]  # fmt: skip
    differing: np.ndarray = np.sum([there[where] - own[:, *where] for where in around], axis=0)
    return differing


def energy(costs: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """Of a labelling int[h, w]; `costs` float[classes, h, w] are what each class costs each pixel."""
    unary = np.take_along_axis(costs, labels[None], axis=0).sum()
    return float(unary + weight * ((labels[1:] != labels[:-1]).sum() + (labels[:, 1:] != labels[:, :-1]).sum()))


def sweep(costs: np.ndarray, labels: np.ndarray, weight: float, noise: np.ndarray | float = 0.0) -> np.ndarray:
    """Every pixel its cheapest class, given its neighbours'. With Gumbel noise of scale T that is a draw from the
    Gibbs distribution at temperature T."""
    dark = np.indices(labels.shape).sum(axis=0) % 2 == 0
    for half in (dark, ~dark):
        best = (costs + weight * disagreement(labels, len(costs)) - noise).argmin(axis=0)
        labels = np.where(half, best, labels)
    return labels


def minimised(costs: np.ndarray, weight: float) -> np.ndarray:
    """A labelling int[h, w] of low energy, from which no change of a single pixel leads further down."""
    labels: np.ndarray = costs.argmin(axis=0)
    random = np.random.default_rng(0)
    for temperature in HOTTEST * (1 - np.arange(SWEEPS) / SWEEPS):
        exponential = random.standard_exponential(costs.shape, np.float32)
        labels = sweep(costs, labels, weight, -temperature * np.log(exponential + 1e-30))
    for _ in range(MOST):
        before, labels = labels, sweep(costs, labels, weight)
        if np.array_equal(before, labels):
            break
    return labels


class MarkovRandomField(Method):
    longest = 240
    settings = (1.0, 2.0, 4.0)

    def refine(self, image: np.ndarray, scores: np.ndarray, setting: float) -> np.ndarray:
        """Each class's probability given what the neighbours became, which the labelling is the best of."""
        labels = minimised(-scores, setting)
        return normalised(scores - setting * disagreement(labels, len(scores)))
