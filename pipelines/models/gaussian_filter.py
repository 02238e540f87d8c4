"""Sums over all pairs of pixels, weighted by a Gaussian of their distance: nearly all of a fully connected CRF's work.

    out_i = sum_j exp(-|p_i - p_j|^2 / (2 position^2) - |c_i - c_j|^2 / (2 colour^2)) v_j, over all j, i included

`bilateral` chooses by size among three ways, all symmetric or with their transposes:

- `Exact`, the matrix of all pairs, for small images.
- `Factored` interpolates between nodes, and is exact from node to node, as in structured kernel interpolation (Wilson,
  Nickisch, ICML 2015, arXiv 1503.01057). Nodes are all pairs of a place and a colour: places on a coarse grid of
  quadratic B-splines, colours at the corners of a permutohedral lattice that the image's colours lie in. Between them
  the Gaussian is a product, so that a blur over colours and one along each axis are all there is to do.
- `Lattice`, the permutohedral lattice over places and colours at once, as in the reference implementation of the CRF,
  where a `Factored` of tolerable size would be coarse: narrow Gaussians on large images.

Held against sums in float64 over all pairs. What the choice costs a CRF's marginals after 10 iterations, on street
scenes of 96x128 (benchmarks/crf.py): `Factored` is off by 0.0002 on average and gives 99.9% of the pixels the label of
brute force, `Lattice` by 0.001 and 99.5%. At single pixels, where classes are even, either can be wrong altogether.
"""

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.models.permutohedral import Corners, Lattice, Spread, ball, weighted_sums

EXACT_BELOW = 4096  # pixels; a matrix of 64 MiB
FINENESS = (1.5, 1.25, 1.0, 0.8)  # of the lattice of colours; the finest that PRODUCTS allows
PRODUCTS = 2048  # per pixel and channel that a blur over colours may take
NODE_STEP = 0.75  # between places, in deviations
CUT = 3.5  # deviations between colours beyond which a Gaussian counts as 0
CHANNELS = 16  # filtered at once: bounds the memory, and keeps a block in a processor's cache


class GaussianFilter(Protocol):
    def __call__(self, values: Tensor, *, transposed: bool = False) -> Tensor:
        """float[pixels, channels] -> the weighted sums, of the same shape."""


def bilateral(
    image: Tensor, *, position_sigma: float, color_sigma: float, exact_below: int = EXACT_BELOW
) -> GaussianFilter:
    """The filter over the pixels of float[c, h, w], row by row."""
    colors, size = image.flatten(1).T / color_sigma, image.shape[-2:]
    features = torch.cat([positions(size, like=image) / position_sigma, colors], dim=1)
    if len(colors) <= exact_below:
        return Exact(features)
    places = math.prod(_nodes(length, position_sigma) for length in size)
    for fineness in FINENESS if colors.shape[1] <= 3 else ():
        corners, products = Corners(colors * fineness), len(ball(colors.shape[1], _reach(fineness))[0])
        if places * corners.count * products <= PRODUCTS * len(colors):
            return Factored(corners, fineness, *(_axis(length, position_sigma, like=image) for length in size))
    return Lattice(features)


def positions(size: torch.Size, *, like: Tensor) -> Tensor:
    """float[h * w, 2]: the row and the column of each pixel."""
    axes = [torch.arange(length, dtype=like.dtype, device=like.device) for length in size]
    return torch.cartesian_prod(*axes)


class Exact:
    def __init__(self, features: Tensor):
        # Differences, not dot products: those cancel, and for colours of 255 the exponent would be off by 1e-3.
        distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
        self.matrix = distances.square_().mul_(-0.5).exp_()

    def __call__(self, values: Tensor, *, transposed: bool = False) -> Tensor:
        return self.matrix @ values  # symmetric


class Axis(NamedTuple):
    """Pixels along one side of the image, and the nodes between which their Gaussian is computed."""

    nodes: Tensor  # int64[pixels, 3]
    weights: Tensor  # float[pixels, 3]: of quadratic B-splines
    kernel: Tensor  # float[nodes, nodes]


def _nodes(pixels: int, sigma: float) -> int:
    return round((pixels - 1) / sigma / NODE_STEP) + 3


def _axis(pixels: int, sigma: float, *, like: Tensor) -> Axis:
    """The kernel between nodes for which interpolation comes closest, in squares, to the Gaussian between pixels."""
    at = torch.arange(pixels, dtype=torch.float64, device=like.device) / sigma
    wanted = gaussian(at)
    nearest = (at / NODE_STEP).round()
    off = at / NODE_STEP - nearest
    weights = torch.stack([(0.5 - off).square() / 2, 0.75 - off.square(), (0.5 + off).square() / 2], dim=1)
    nodes = nearest.long().unsqueeze(1) + torch.arange(3, device=like.device)
    splines = at.new_zeros(pixels, _nodes(pixels, sigma)).scatter_(1, nodes, weights)
    fit = torch.linalg.pinv(splines)
    return Axis(nodes, weights.to(like), (fit @ wanted @ fit.T).to(like))


def gaussian(at: Tensor) -> Tensor:
    """float[n] -> float[n, n], the kernel between all pairs."""
    return ((at[:, None] - at).square() / -2).exp()


class Factored:
    """`corners` are those of the colours times `fineness`."""

    def __init__(self, corners: Corners, fineness: float, rows: Axis, columns: Axis):
        self.rows, self.columns = rows, columns
        self.shape = (len(rows.kernel), corners.count, len(columns.kernel))
        # Row of nodes, colour, column of nodes: the colours of one row are filtered at a time, from a cache.
        across = rows.nodes[:, None, :, None] * corners.count * len(columns.kernel) + columns.nodes[None, :, None, :]
        nodes = corners.place.unsqueeze(2) * len(columns.kernel) + across.flatten(2).flatten(0, 1).unsqueeze(1)
        shares = rows.weights[:, None, :, None] * columns.weights[None, :, None, :]
        weights = corners.weights.unsqueeze(2) * shares.flatten(2).flatten(0, 1).unsqueeze(1)
        self.nodes, self.weights = nodes.flatten(1).int(), weights.flatten(1)
        self.spread = Spread(self.nodes, self.weights, math.prod(self.shape))
        self._join(corners, fineness)

    def _join(self, corners: Corners, fineness: float) -> None:
        """Which colours a colour sums, and with which weights."""
        steps, squared = ball(corners.dimensions, _reach(fineness))
        neighbours = corners.shifted(steps.to(corners.place.device)).T
        there = neighbours < corners.count
        weights = (squared / (-2 * _variance(fineness))).exp().to(self.weights)
        self.neighbours, self.closeness = neighbours[there], weights.expand(len(there), -1)[there]
        counts = there.sum(dim=1)
        self.first = (counts.cumsum(0) - counts).int()

    def __call__(self, values: Tensor, *, transposed: bool = False) -> Tensor:
        parts = [self._filter(part) for part in values.split(CHANNELS, dim=1)]
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _filter(self, values: Tensor) -> Tensor:
        rows, colors, columns = self.shape
        channels = values.shape[1]
        x = self.spread(values).view(rows, colors, columns * channels)
        for row in x:
            blurred = self._blur_colors(row).view(colors, columns, channels)
            row.view_as(blurred).copy_(self.columns.kernel @ blurred)
        x = self.rows.kernel @ x.flatten(1)
        return weighted_sums(self.nodes, x.view(-1, channels), self.weights)

    def _blur_colors(self, row: Tensor) -> Tensor:
        return F.embedding_bag(self.neighbours, row, self.first, per_sample_weights=self.closeness, mode="sum")


def _variance(fineness: float) -> float:
    """Of the Gaussian between corners, in the lattice's units: interpolating twice brings the rest."""
    return fineness**2 - 2 / 8


def _reach(fineness: float) -> float:
    return CUT * math.sqrt(_variance(fineness))
