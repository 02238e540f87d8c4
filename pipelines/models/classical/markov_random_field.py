"""Markov random field: Geman, Geman, "Stochastic relaxation, Gibbs distributions, and the Bayesian restoration of
images", PAMI 1984, minimised as in Boykov, Veksler, Zabih, "Fast approximate energy minimization via graph cuts", PAMI
2001.

Energy of a labelling = sum over pixels of -log P(class) + weight * the number of neighbours (four each) whose classes
differ: Potts' model. An expansion of a class lets every pixel keep its own or take that one; the best of all these
choices is a minimum cut. Classes are expanded in turn until none lowers the energy, which is exact for two classes and
within a factor of two for more. Settings: the weight. Fitted: the labeller's colours and places.
"""

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from pipelines.models.classical.base import Method
from pipelines.models.classical.labeller import normalised

SCALE = 256  # flows are whole numbers
DEAREST = 30.0  # what is less probable than exp(-30) is so no further, which keeps the flows small
MOST, CYCLES = 16, 3  # classes that are expanded, those of the largest areas; times in turn


def neighbours(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The flat indices of all pairs."""
    ids = np.arange(height * width).reshape(height, width)
    p, q = ((ids[:-1], ids[:, :-1]), (ids[1:], ids[:, 1:]))
    return np.concatenate([half.ravel() for half in p]), np.concatenate([half.ravel() for half in q])


def energy(costs: np.ndarray, labels: np.ndarray, weight: float) -> float:
    """Of a labelling int[h, w]; `costs` float[classes, h, w] are what each class costs each pixel."""
    p, q = neighbours(*labels.shape)
    unary = np.take_along_axis(costs, labels[None], axis=0).sum()
    return float(unary + weight * (labels.flat[p] != labels.flat[q]).sum())


def expanded(costs: np.ndarray, labels: np.ndarray, to: int, weight: float) -> np.ndarray:
    """The best labelling in which every pixel has its own class or the class `to`.

    Pairs cost `keep` where both keep, `first` or `second` where that one alone does, and nothing where both take it:
    keep + (second - keep) * x_p - second * x_q + (first + second - keep) * (1 - x_p) * x_q, x being 1 for those that
    take it. What stands at x alone is added to the pixel's own, the rest is an edge to be cut (Kolmogorov, Zabih 2004).
    """
    p, q = neighbours(*labels.shape)
    flat = labels.ravel()
    keep, first, second = (weight * pair for pair in (flat[p] != flat[q], flat[p] != to, flat[q] != to))
    taking = (costs[to] - np.take_along_axis(costs, labels[None], axis=0)[0]).ravel()
    taking = taking + np.bincount(p, second - keep, flat.size) - np.bincount(q, second, flat.size)
    return np.where(minimum_cut(taking, p, q, first + second - keep).reshape(labels.shape), to, labels)


def minimum_cut(taking: np.ndarray, p: np.ndarray, q: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """bool[n], the x that minimises the sum of taking * x and, over pairs, of apart * (1 - x_p) * x_q."""
    count = len(taking)
    source, sink, each = count, count + 1, np.arange(count)
    begins = np.concatenate([p, np.where(taking > 0, source, each)])
    ends = np.concatenate([q, np.where(taking > 0, each, sink)])
    capacity = np.round(SCALE * np.concatenate([apart, np.abs(taking)])).astype(np.int32)
    graph = csr_matrix((capacity, (begins, ends)), shape=(count + 2, count + 2))
    left = graph - maximum_flow(graph, source, sink).flow
    left.eliminate_zeros()
    cut_off = np.ones(count + 2, bool)
    cut_off[breadth_first_order(left, source, return_predecessors=False)] = False
    return cut_off[:count]


def minimised(costs: np.ndarray, weight: float) -> np.ndarray:
    """A labelling int[h, w] from which no expansion leads further down, if CYCLES are enough: as a rule they are."""
    labels: np.ndarray = costs.argmin(axis=0)
    areas = np.bincount(labels.ravel(), minlength=len(costs))
    lowest = energy(costs, labels, weight)
    for _ in range(CYCLES):
        before = lowest
        for to in np.argsort(-areas, kind="stable")[: min(MOST, np.count_nonzero(areas))]:
            tried = expanded(costs, labels, int(to), weight)
            if (found := energy(costs, tried, weight)) < lowest:
                labels, lowest = tried, found
        if lowest == before:
            break
    return labels


class MarkovRandomField(Method):
    longest = 160
    settings = (1.0, 2.0, 4.0)

    def refine(self, image: np.ndarray, scores: np.ndarray, setting: float) -> np.ndarray:
        """Each class's probability, given what the neighbours became; that of the labelling wins."""
        labels = minimised(np.minimum(-scores, DEAREST), setting)
        classes = np.arange(len(scores))[:, None, None]
        padded = np.pad(labels, 1, constant_values=-1)
        around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
        agreeing = np.sum([classes == neighbour for neighbour in around], axis=0)
        return normalised((scores + setting * agreeing).astype(np.float32))
