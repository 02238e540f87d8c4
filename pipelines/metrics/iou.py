"""IoU of detections with truths as the COCO API computes it (github.com/cocodataset/cocoapi, common/maskApi.c).

Against a crowd, which no single detection can fill, it is the share of the detection that lies in the crowd.
"""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from pipelines.data import rle, runs

Runs = tuple[np.ndarray, np.ndarray, np.ndarray]  # of several masks: whose, where it starts, where it ends


def mask_iou(masks: np.ndarray, truth: Sequence[np.ndarray], crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool[d, h, w] and the run lengths of g truths -> (IoU float64[d, g], the masks' areas int64[d])."""
    height, width = masks.shape[1:]
    return _iou(runs.of_masks(masks), _column_runs(truth, height * width), len(masks), height, width, crowd)


def boundary_iou(masks: np.ndarray, truth: Sequence[np.ndarray], crowd: np.ndarray, distance: int) -> np.ndarray:
    """As `mask_iou`, of what lies within `distance` pixels of each mask's edge (Cheng et al., arXiv 2103.16562): of all
    but the pixels whose square of `distance` on all sides lies in the mask. Beyond the image is none of it: where the
    image cuts an object there is an edge."""
    height, width = masks.shape[1:]
    found = _edges((_crop(mask) for mask in masks), width, distance)
    # The square is the same when it is turned: columns of truths are rows here, as their runs are.
    turned = ((y, x, crop.T) for x, y, crop in (rle.cropped(counts, height) for counts in truth))
    return _iou(found, _edges(turned, height, distance), len(masks), height, width, crowd)[0]


def box_iou(boxes: np.ndarray, truth: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """float64[d, 4] and float64[g, 4], both x, y, width, height -> float64[d, g], operation by operation as bbIou."""
    x, y, width, height = boxes.T[:, :, None]
    truth_x, truth_y, truth_width, truth_height = truth.T
    across = np.minimum(width + x, truth_width + truth_x) - np.maximum(x, truth_x)
    down = np.minimum(height + y, truth_height + truth_y) - np.maximum(y, truth_y)
    shared = np.where((across > 0) & (down > 0), across * down, 0.0)
    area = width * height
    union = np.where(crowd, area, area + truth_width * truth_height - shared)
    iou = np.zeros_like(shared)
    np.divide(shared, union, out=iou, where=shared > 0)
    return iou


def run_overlaps(found: Sequence[np.ndarray], truth: Sequence[np.ndarray], pixels: int) -> np.ndarray:
    """The run lengths of d and of g masks of so many pixels -> int64[d, g]: the pixels in common."""
    # In what order the pixels stand does not matter, as long as it is one order: they are one row.
    return _shared(_column_runs(found, pixels), _column_runs(truth, pixels), len(found), len(truth), 1, pixels)


def _iou(
    found: Runs, truth: Runs, masks: int, height: int, width: int, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Runs of masks, row-major, and of truths, column-major -> (IoU, the masks' areas)."""
    (mask, start, end), (owner, first, last) = found, truth
    area = np.bincount(mask, end - start, minlength=masks).astype(np.int64)
    shared = _shared(found, truth, masks, crowd.size, height, width)
    truth_area = np.bincount(owner, last - first, minlength=crowd.size)
    union = np.where(crowd, area[:, None], area[:, None] + truth_area - shared)
    return shared / np.maximum(union, 1), area


def _shared(found: Runs, truth: Runs, masks: int, truths: int, height: int, width: int) -> np.ndarray:
    """Runs of masks, row-major, and of truths, column-major -> int64[masks, truths]."""
    shared = np.zeros((masks, truths), np.int64)
    for layer in _layers(*truth, height, width):
        shared += runs.overlaps(*found, layer, masks=masks, count=truths + 1)[:, 1:]
    return shared


def _crop(mask: np.ndarray) -> tuple[int, int, np.ndarray]:
    """bool[h, w] -> the tight box's x and y, and what is in it."""
    x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    return x, y, mask[y : y + height, x : x + width]


def _edges(crops: Iterable[tuple[int, int, np.ndarray]], stride: int, distance: int) -> Runs:
    """(column, row, bool[h, w]) of each mask -> the runs of its edge in rows of `stride` pixels."""
    square = np.ones((2 * distance + 1,) * 2, np.uint8)
    owners, places = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for owner, (column, row, crop) in enumerate(crops):
        height, width = crop.shape
        edge = np.zeros((height, width + 2), bool)
        if crop.size:
            whole = np.ascontiguousarray(crop).view(np.uint8)
            inner = cv2.erode(whole, square, borderType=cv2.BORDER_CONSTANT, borderValue=0.0).view(bool)
            edge[:, 1:-1] = crop ^ inner
        down, across = np.divmod(np.flatnonzero(edge[:, 1:] != edge[:, :-1]), width + 1)
        places.append((row + down) * stride + column + across)
        owners.append(np.full(down.size, owner))
    at = np.concatenate(places)
    return np.concatenate(owners)[::2], at[::2], at[1::2]


def _column_runs(truth: Sequence[np.ndarray], pixels: int) -> Runs:
    """(truth, start, end) of all runs that are set, column-major as run-length masks are."""
    sizes = np.array([counts.size for counts in truth], np.int64)
    first = np.cumsum(sizes) - sizes
    edges = np.concatenate([[0], *truth]).cumsum(dtype=np.int64)
    wrong = np.flatnonzero(edges[first + sizes] != np.arange(1, len(truth) + 1) * pixels)
    if wrong.size:
        raise ValueError(f"the runs of truth {wrong[0]} do not add up to {pixels} pixels")
    # Every second run of each truth is set, the first one never.
    owner, run = runs.expand(first, sizes)
    odd = (run - first[owner]) % 2 == 1
    owner, run = owner[odd], run[odd]
    start, end = edges[run] - owner * pixels, edges[run + 1] - owner * pixels
    full = end > start
    return owner[full], start[full], end[full]


def _layers(owner: np.ndarray, start: np.ndarray, end: np.ndarray, height: int, width: int) -> list[np.ndarray]:
    """Runs of masks that may overlap -> label maps [h, w], 0 or owner + 1: the k-th mask of a pixel is in map k."""
    if owner.size == 0:
        return []
    order = np.argsort(start, kind="stable")
    ordered = np.stack([start[order], end[order]], axis=1)
    if (ordered[1:, 0] >= ordered[:-1, 1]).all():  # no two overlap, as in most images: the runs are the pieces
        edges, pieces = ordered.reshape(-1), np.zeros((1, 2 * owner.size + 1), np.int64)
        pieces[0, 1::2] = owner[order] + 1
    else:
        edges, pieces = _pieces(owner, start, end)
    widths = np.diff(edges, prepend=0, append=height * width)
    labels = pieces.astype(np.min_scalar_type(int(owner.max()) + 1))  # the smaller, the faster it is turned
    return [np.ascontiguousarray(np.repeat(row, widths).reshape(width, height).T) for row in labels]


def _pieces(owner: np.ndarray, start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs that overlap -> the edges of pieces that do not, and owner + 1 of each piece, before, between and behind
    them, as int64[depth, edges + 1]."""
    # Edges that coincide bound an empty piece, which is painted nowhere: no need to make them unique.
    edges = np.sort(np.concatenate([start, end]))
    first = np.searchsorted(edges, start)
    source, piece = runs.expand(first, np.searchsorted(edges, end) - first)
    order = np.argsort(piece, kind="stable")  # any order would do; this is the fastest on neighbours
    source, piece = source[order], piece[order]
    depth = np.arange(piece.size) - np.searchsorted(piece, piece)
    labels = np.zeros((int(depth.max()) + 1, edges.size + 1), np.int64)
    labels[depth, piece + 1] = owner[source] + 1
    return edges, labels
