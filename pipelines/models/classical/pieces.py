"""What several methods share to cut an image into connected regions."""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from skimage.filters import sobel
from skimage.segmentation import watershed

from pipelines.models.classical.labeller import lab


def smooth_lab(image: np.ndarray, sigma: float) -> np.ndarray:
    """uint8[h, w, 3] RGB -> float32[h, w, 3] CIELAB of 0..255, blurred by a Gaussian."""
    blurred: np.ndarray = gaussian_filter(lab(image).astype(np.float32), (sigma, sigma, 0))
    return blurred


def edges(colours: np.ndarray) -> np.ndarray:
    """float[h, w, 3] -> float[h, w]: how fast the colour changes, over all channels."""
    strength: np.ndarray = np.sqrt(sum(sobel(channel) ** 2 for channel in np.moveaxis(colours, 2, 0)))
    return strength


def joined(colours: np.ndarray, tolerance: float) -> np.ndarray:
    """float[h, w, 3] -> int[h, w]: neighbours whose colours are at most so far apart are in one region."""
    ids = np.arange(colours[..., 0].size).reshape(colours.shape[:2])
    across = np.linalg.norm(np.diff(colours, axis=1), axis=2) <= tolerance
    down = np.linalg.norm(np.diff(colours, axis=0), axis=2) <= tolerance
    one = np.concatenate([ids[:, :-1][across], ids[:-1][down]])
    other = np.concatenate([ids[:, 1:][across], ids[1:][down]])
    graph = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(ids.size, ids.size))
    found: np.ndarray = connected_components(graph, directed=False)[1].reshape(ids.shape)
    return found


def without_small(regions: np.ndarray, colours: np.ndarray, least: int) -> np.ndarray:
    """Regions of fewer than `least` pixels are flooded by their neighbours, where the colour changes least first."""
    sizes = np.bincount(regions.ravel())
    kept = np.where(sizes[regions] >= least, regions + 1, 0)
    if not kept.any():
        return regions
    flooded: np.ndarray = watershed(edges(colours), kept)
    return flooded
