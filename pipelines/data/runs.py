"""Runs of equal pixels in row-major order: what is looked up and what every overlap is counted by, not each pixel.

Labels are piecewise constant, so two label maps overlap in a few thousand pieces where they have a million pixels.
"""

from collections.abc import Sequence

import numpy as np

PIECE = 512  # places: eight times a whole number


def changes(flat: np.ndarray) -> np.ndarray:
    """[n] -> int64[k]: where a value differs from the one before it."""
    return np.flatnonzero(flat[1:] != flat[:-1]) + 1


def changes_of_sparse(flat: np.ndarray) -> np.ndarray:
    """`changes` of bool[n] that is mostly False, in any order: where PIECE places in a row are, nothing more is looked
    at."""
    whole = flat.size // PIECE
    pieces = flat[: whole * PIECE].reshape(whole, PIECE)
    looked = np.append(pieces.view(np.uint64).any(axis=1), True)  # the last is the rest, whatever it holds
    some = np.flatnonzero(looked[:-1])
    inside, place = np.nonzero(pieces[some, 1:] != pieces[some, :-1])
    rest = whole * PIECE + changes(flat[whole * PIECE :])
    # Between two pieces: at the first place of one that is looked at, or behind the last of one before an empty one.
    bounds = PIECE * (1 + np.flatnonzero(looked[1:] | looked[:-1]))
    bounds = bounds[bounds < flat.size]
    bounds = bounds[flat[bounds] != flat[bounds - 1]]
    return np.concatenate([some[inside] * PIECE + place + 1, rest, bounds])


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
    edges = np.sort(np.concatenate([changes_of_sparse(flat), seams, seams, ends]))
    start, end = edges[::2], edges[1::2]
    mask = start // pixels
    return mask, start - mask * pixels, end - mask * pixels


def places(ids: np.ndarray, known: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Whole numbers [h, w] -> uint16[h, w], 0 for what is not known and from 1 on the place in `known`; and, in order,
    those that are neither 0 nor known."""
    flat = ids.reshape(-1)
    first = np.append(0, changes(flat))[: flat.size]
    values, order = flat[first].astype(np.int64), np.argsort(known, kind="stable")
    rows = np.append(np.asarray(known, np.int64)[order], -1)
    at = np.searchsorted(rows[:-1], values)
    found = rows[at] == values
    labels = np.where(found, np.append(order, 0)[at] + 1, 0).astype(np.uint16)
    strange = np.unique(values[~found & (values != 0)]).tolist()
    return np.repeat(labels, np.diff(np.append(first, flat.size))).reshape(ids.shape), strange


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
