"""The permutohedral lattice: Adams, Baek, Davis, Eurographics 2010.

It tiles d-dimensional space with simplices, so that a point lies among d + 1 corners where a grid has 2^d. Corners are
whole-numbered vectors whose d + 1 entries sum to 0 and leave the same remainder by d + 1.

Deviation: corners are found by sorting one number for each and by binary search, not in a hash table, so that all of
it is vectorised, on any device.
"""

import math
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.errors import ConfigError


class Corners:
    """The corners around some points: float[n, d] -> `count` corners, of which each point has `place` int[n, d + 1],
    with barycentric `weights`[n, d + 1].

    In units of the features, linear interpolation among corners has a variance of 1/8 along each axis.
    """

    def __init__(self, points: Tensor):
        corners, self.weights = simplices(points)
        self.dimensions = points.shape[1]
        base = math.floor(2 ** (64 / self.dimensions))
        span = int((corners.amax(dim=(0, 1)) - corners.amin(dim=(0, 1))).max())
        if span >= base // 2:  # neighbours of what is there need room, too
            raise ConfigError(
                f"crf: with deviations this small, the image is {span} steps of a lattice wide, of at most {base // 2}",
                do="raise crf.color_sigma or crf.bilateral_sigma",
            )
        powers = [pow(base, i) for i in reversed(range(self.dimensions))]
        self.multipliers = torch.tensor(powers, device=points.device)
        self.known, place = torch.unique(self._keys(corners), return_inverse=True)
        self.place = place.int()
        self.count = len(self.known)

    def _keys(self, corners: Tensor) -> Tensor:
        """One number each; linear modulo 2^64, so that a neighbour's is known from its own. The last entry follows from
        the others."""
        return (corners[..., :-1] * self.multipliers).sum(dim=-1)

    def shifted(self, steps: Tensor) -> Tensor:
        """int64[k, d + 1] -> int32[k, count]: where a step leads from each corner; `count` where to none."""
        wanted = self.known + self._keys(steps).unsqueeze(1)
        place = torch.searchsorted(self.known, wanted).clamp_(max=self.count - 1)
        return torch.where(self.known[place] == wanted, place, self.count).int()


def simplices(points: Tensor) -> tuple[Tensor, Tensor]:
    """float[n, d] -> corners int64[n, d + 1, d + 1] of the simplex around each, and its barycentric coordinates there.

    The scale is the one at which spreading to the corners, a blur by (1, 2, 1) / 4 along every direction, and gathering
    from the corners have variances that add up to 1: 1/8, 3/4 and 1/8.
    """
    sides = points.shape[1] + 1
    on_plane = points @ _plane(points)
    # The corner of remainder 0: each entry rounded; where the sum is then not 0, those that were rounded the furthest
    # are rounded the other way.
    nearest = (on_plane / sides).round()
    rank = (on_plane - nearest * sides).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    rank += nearest.sum(dim=1, keepdim=True).long()
    wrap = (rank < 0).long() - (rank >= sides).long()
    nearest, rank = nearest + wrap, rank + sides * wrap
    # From there to the corner of remainder k: +k, but k - sides for the k entries with the least left over.
    number = torch.arange(sides, device=points.device)
    steps = number[:, None] - sides * (number >= sides - number[:, None])
    corners = (nearest.long() * sides).unsqueeze(1) + steps[:, rank].movedim(0, 1)
    left_over = torch.empty_like(on_plane).scatter_(1, sides - 1 - rank, on_plane / sides - nearest)  # ascending
    weights = left_over - left_over.roll(1, dims=1)
    weights[:, 0] += 1
    return corners, weights


def _plane(like: Tensor) -> Tensor:
    """[d, d + 1]: an orthogonal basis, scaled, of the vectors whose entries sum to 0."""
    dimensions = like.shape[1]
    basis = like.new_zeros(dimensions, dimensions + 1)
    for i in range(dimensions):
        basis[i, : i + 1] = 1
        basis[i, i + 1] = -(i + 1)
        basis[i] /= math.sqrt((i + 1) * (i + 2))
    return basis * _scale(dimensions)


def _scale(dimensions: int) -> float:
    return (dimensions + 1) * math.sqrt(2 / 3)


def directions(dimensions: int) -> Tensor:
    """int64[d + 1, d + 1]: the steps from a corner to its nearest neighbours, and their opposites to the others."""
    return torch.ones(dimensions + 1, dimensions + 1).long() - (dimensions + 1) * torch.eye(dimensions + 1).long()


def ball(dimensions: int, radius: float) -> tuple[Tensor, Tensor]:
    """All steps between corners that are no longer than `radius`, int64[k, d + 1], and their squared lengths."""
    reach = range(-math.ceil(2 * radius), math.ceil(2 * radius) + 1)
    steps = torch.tensor(list(product(reach, repeat=dimensions))) @ directions(dimensions)[:-1]
    squared = steps.double().square().sum(dim=1) / _scale(dimensions) ** 2
    inside = squared <= radius**2
    return steps[inside], squared[inside]


class Lattice:
    """A Gaussian filter of deviation 1 in any number of dimensions, in time linear in the points: spread, blur, gather.

    Mass that a blur would move to a corner that no point has is lost, and the steps of the blur do not commute there;
    `transposed` takes them in reverse.
    """

    def __init__(self, features: Tensor):
        corners = Corners(features)
        self.gather, self.weights = corners.place, corners.weights
        self.spread = Spread(corners.place, corners.weights, corners.count)
        steps = directions(corners.dimensions).to(features.device)
        self.lines = list(zip(corners.shifted(-steps), corners.shifted(steps), strict=True))

    def __call__(self, values: Tensor, *, transposed: bool = False) -> Tensor:
        x = self.spread(values)
        for before, behind in reversed(self.lines) if transposed else self.lines:
            padded = F.pad(x, (0, 0, 0, 1))  # 0 where there is no neighbour
            x = 0.5 * x + 0.25 * (padded.index_select(0, before) + padded.index_select(0, behind))
        return weighted_sums(self.gather, x, self.weights)


class Spread:
    """The transpose of `weighted_sums`: every node sums what the points give it, in an order that never changes."""

    def __init__(self, nodes: Tensor, weights: Tensor, count: int):
        """nodes int[n, k] among `count`, weights float[n, k]."""
        ordered, order = nodes.flatten().sort(stable=True)
        self.givers = (order // nodes.shape[1]).int()
        self.weights = weights.flatten()[order]
        self.first = torch.searchsorted(ordered, torch.arange(count, device=nodes.device).int()).int()

    def __call__(self, values: Tensor) -> Tensor:
        return F.embedding_bag(self.givers, values, self.first, per_sample_weights=self.weights, mode="sum")


def weighted_sums(rows: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """int[n, k], float[m, channels], float[n, k] -> float[n, channels]"""
    return F.embedding_bag(rows, values, per_sample_weights=weights, mode="sum")
