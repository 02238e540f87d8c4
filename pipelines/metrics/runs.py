"""Runs of equal pixels in row-major order: what every overlap here is counted by, instead of pixel by pixel.

Labels are piecewise constant, so two label maps overlap in a few thousand pieces where they have a million pixels.
"""

import numpy as np


def changes(flat: np.ndarray) -> np.ndarray:
    """[n] -> int64[k]: where a value differs from the one before it."""
    return np.flatnonzero(flat[1:] != flat[:-1]) + 1


def expand(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges first[i] .. first[i] + counts[i] laid end to end -> (the range each element comes from, the element)."""
    source = np.repeat(np.arange(counts.size), counts)
    before = np.cumsum(counts) - counts
    return source, np.arange(source.size) + (first - before)[source]


def of_masks(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool[n, h, w] -> (mask, start, end) of all runs that are set, by mask; a run may go on into the next row."""
    n, pixels = len(masks), masks.shape[1] * masks.shape[2]
    if n * pixels == 0:
        return (np.zeros(0, np.int64),) * 3
    flat = np.ascontiguousarray(masks).reshape(-1)
    # A mask that ends set before one that begins set: the change that is none has to be put in, as an end and a start.
    seams = np.arange(pixels, n * pixels, pixels)
    seams = seams[flat[seams] & flat[seams - 1]]
    ends = np.flatnonzero([flat[0], flat[-1]]) * flat.size
    edges = np.concatenate([changes(flat), seams, seams, ends])
    if seams.size or ends.size:
        edges.sort()
    start, end = edges[::2], edges[1::2]
    mask = start // pixels
    return mask, start - mask * pixels, end - mask * pixels


def overlaps(
    mask: np.ndarray, start: np.ndarray, end: np.ndarray, labels: np.ndarray, *, masks: int, count: int
) -> np.ndarray:
    """Runs of `masks` masks, and a label map [h, w] of 0..count - 1 -> int64[masks, count]: the pixels in common."""
    flat = labels.reshape(-1)
    edges = np.concatenate([[0], changes(flat), [flat.size]])
    first = np.searchsorted(edges, start, side="right") - 1
    source, piece = expand(first, np.searchsorted(edges, end, side="left") - first)
    length = np.minimum(end[source], edges[piece + 1]) - np.maximum(start[source], edges[piece])
    # bincount adds weights as float64: whole numbers, far below 2**53.
    total = np.bincount(mask[source] * count + flat[edges[piece]], length, minlength=masks * count)
    return total.astype(np.int64).reshape(masks, count)
