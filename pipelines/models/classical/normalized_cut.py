"""Normalised cut: Shi, Malik, "Normalized cuts and image segmentation", PAMI 2000, on superpixels.

Superpixels are the nodes of a graph, their colours' similarity the weight of its edges. It is cut in two where the cut
is cheapest in relation to what it cuts off, and so are the parts, as long as a cut costs less than a threshold; the
labeller names the parts. The paper cuts a graph of pixels, which takes minutes. Held against scikit-image's, which is
not used: its Lanczos iterations fail on some images, and a few hundred nodes are solved exactly. Settings: the
threshold and the number of superpixels. Fitted: the labeller's colours and places.
"""

import numpy as np
from scipy.linalg import eigh
from skimage.segmentation import slic

from pipelines.models.classical.base import Regions
from pipelines.models.classical.labeller import lab

SIMILAR = 200.0  # squared distance in CIELAB (0..255) at which similarity has fallen to 1 / e
PLACES = 10  # where the eigenvector is tried to be parted
MOST = 64  # parts


def similarity(colours: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """float[h, w, 3], int[h, w] from 0 without gaps -> float[n, n]: of adjacent regions' mean colours, and 1 each with
    itself."""
    sizes = np.bincount(regions.ravel())
    means = np.stack([np.bincount(regions.ravel(), channel.ravel()) / sizes for channel in np.moveaxis(colours, 2, 0)])
    weights = np.eye(len(sizes))
    for one, other in ((regions[1:], regions[:-1]), (regions[:, 1:], regions[:, :-1])):
        i, j = one[one != other], other[one != other]
        weights[i, j] = weights[j, i] = np.exp(-((means[:, i] - means[:, j]) ** 2).sum(axis=0) / SIMILAR)
    return weights


def bisect(weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The cheapest of a few cuts in two: its cost, 0..2, and bool[n], the nodes on one side.

    The second smallest eigenvector of the normalised Laplacian is the cut, were it not that nodes cannot be divided.
    """
    degree = weights.sum(axis=1)
    scale = 1 / np.sqrt(degree)
    laplacian = np.eye(len(weights)) - scale[:, None] * weights * scale
    vector = scale * eigh(laplacian, subset_by_index=[1, 1])[1][:, 0]
    sides = vector > np.linspace(vector.min(), vector.max(), PLACES + 2)[1:-1, None]
    cost = [weights[side][:, ~side].sum() * (1 / degree[side].sum() + 1 / degree[~side].sum()) for side in sides]
    best = int(np.argmin(cost))
    return cost[best], sides[best]


def cut(weights: np.ndarray, threshold: float) -> np.ndarray:
    """Symmetric float[n, n] -> int[n]: the part of each node. The largest part is always cut next, so that what is
    left when there are MOST of them is small."""
    uncut, parts = [np.arange(len(weights))], list[np.ndarray]()
    while uncut:
        nodes = uncut.pop(int(np.argmax([len(part) for part in uncut])))
        room = len(nodes) > 1 and len(uncut) + len(parts) + 2 <= MOST
        cost, side = bisect(weights[np.ix_(nodes, nodes)]) if room else (np.inf, nodes)
        if cost < threshold:
            uncut += [nodes[side], nodes[~side]]
        else:
            parts.append(nodes)
    which = np.zeros(len(weights), np.intp)
    for part, nodes in enumerate(parts):
        which[nodes] = part
    return which


class NormalizedCut(Regions):
    settings = ((0.1, 200), (0.3, 200), (0.6, 200))

    def regions(self, image: np.ndarray, setting: tuple[float, int]) -> np.ndarray:
        threshold, count = setting
        _, pixels = np.unique(slic(image, n_segments=count, compactness=10.0), return_inverse=True)
        pixels = pixels.reshape(image.shape[:2])
        parts: np.ndarray = cut(similarity(lab(image).astype(float), pixels), threshold)[pixels]
        return parts
