"""IoU of detections with truths as the COCO API computes it (github.com/cocodataset/cocoapi, common/maskApi.c).

Against a crowd, which no single detection can fill, it is the share of the detection that lies in the crowd.
"""

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.data import rle, runs


def mask_iou(masks: np.ndarray, truth: Sequence[np.ndarray], crowd: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool[d, h, w] and the run lengths of g truths -> (IoU float64[d, g], the masks' areas int64[d])."""
    mask, start, end = runs.of_masks(masks)
    area = np.bincount(mask, end - start, minlength=len(masks)).astype(np.int64)
    shared = np.zeros((len(masks), len(truth)), np.int64)
    truth_runs = _column_runs(truth, masks.shape[1] * masks.shape[2])
    for layer in _layers(*truth_runs, masks.shape[1], masks.shape[2]):
        shared += runs.overlaps(mask, start, end, layer, masks=len(masks), count=len(truth) + 1)[:, 1:]
    truth_area = np.bincount(truth_runs[0], truth_runs[2] - truth_runs[1], minlength=len(truth))
    union = np.where(crowd, area[:, None], area[:, None] + truth_area - shared)
    return shared / np.maximum(union, 1), area


def boundary_iou(masks: np.ndarray, truth: Sequence[np.ndarray], crowd: np.ndarray, distance: int) -> np.ndarray:
    """As `mask_iou`, of what lies within `distance` pixels of each mask's edge (Cheng et al., arXiv 2103.16562)."""
    edges = [rle.encode(boundary(rle.decode(counts, *masks.shape[1:]), distance)) for counts in truth]
    found = np.array([boundary(mask, distance) for mask in masks], bool).reshape(masks.shape)
    return mask_iou(found, edges, crowd)[0]


def boundary(mask: np.ndarray, distance: int) -> np.ndarray:
    """bool[h, w]: without the pixels whose square of `distance` on all sides lies in the mask. Beyond the image is
    none of it: where the image cuts an object there is an edge."""
    edge: np.ndarray = mask.copy()
    x, y, width, height = rle.bbox(mask)
    inner = np.s_[y : y + height, x : x + width]
    whole = np.ascontiguousarray(mask[inner]).view(np.uint8)
    if whole.size:
        square = np.ones((2 * distance + 1,) * 2, np.uint8)
        edge[inner] ^= cv2.erode(whole, square, borderType=cv2.BORDER_CONSTANT, borderValue=0.0).view(bool)
    return edge


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


def _column_runs(truth: Sequence[np.ndarray], pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    # Edges that coincide bound an empty piece, which is painted nowhere: no need to make them unique.
    edges = np.sort(np.concatenate([[0], start, end, [height * width]]))
    first = np.searchsorted(edges, start)
    source, piece = runs.expand(first, np.searchsorted(edges, end) - first)
    order = np.argsort(piece, kind="stable")  # any order would do; this is the fastest on neighbours
    source, piece = source[order], piece[order]
    depth = np.arange(piece.size) - np.searchsorted(piece, piece)
    labels = np.zeros((int(depth.max()) + 1, edges.size - 1), np.int32)
    labels[depth, piece] = owner[source] + 1
    widths = np.diff(edges)
    return [np.ascontiguousarray(np.repeat(row, widths).reshape(width, height).T) for row in labels]
