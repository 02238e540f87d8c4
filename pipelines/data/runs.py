"""Runs of equal pixels in row-major order: what is looked up and what every overlap is counted by, not each pixel.

Labels are piecewise constant, so two label maps overlap in a few thousand pieces where they have a million pixels.
"""

from collections.abc import Sequence

import numpy as np

WORD = 8  # places of a mask that are one number, the first its lowest byte
ONE, LAST = np.uint64(8), np.uint64(56)  # bits of one place, and of all but one


def changes(flat: np.ndarray) -> np.ndarray:
    """Pixels [n] or, of several channels, [n, c] -> int64[k]: where one differs from the one before it."""
    parts, channels = flat.reshape(-1), flat[:1].size or 1
    differs = np.empty(parts.size + -parts.size % WORD, bool)
    differs[:channels] = differs[parts.size :] = False
    np.not_equal(parts[channels:], parts[:-channels], out=differs[channels : parts.size])
    words = differs.view("<u8")
    some = np.flatnonzero(words != 0)
    found = _places(some, words.take(some)) // channels
    once: np.ndarray = found[np.append(True, found[1:] != found[:-1])[: found.size]]  # of channels that differ, one
    return once


def expand(first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranges first[i] .. first[i] + counts[i] laid end to end -> (the range each element comes from, the element)."""
    source = np.repeat(np.arange(counts.size), counts)
    before = np.cumsum(counts) - counts
    return source, np.arange(source.size) + (first - before)[source]


def of_masks(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """bool[n, h, w] -> (mask, start, end) of all runs that are set, by mask; a run may go on into the next row.

    Most of a mask is empty, and eight places are one number: those that are 0 are looked at once and no more.
    """
    pixels = masks.shape[1] * masks.shape[2]
    flat = np.ascontiguousarray(masks).reshape(-1)
    whole = flat.size // WORD * WORD
    words, rest = flat[:whole].view("<u8"), np.zeros(WORD, bool)
    rest[: flat.size - whole] = flat[whole:]
    some = np.flatnonzero(words != 0)
    set_, some = np.append(words[some], rest.view("<u8")), np.append(some, words.size)
    joined = np.diff(some) == 1
    # Each place holds what the place before it holds, and the one behind it: the first of a word the last of another.
    before, after = set_ << ONE, set_ >> ONE
    before[1:] |= np.where(joined, set_[:-1] >> LAST, 0)
    after[:-1] |= np.where(joined, set_[1:] << LAST, 0)
    seams = np.arange(pixels, flat.size, max(pixels, 1))  # a mask that begins set ends the run before it
    first, last = (
        _places(some, set_ & (~beside | _marks(some, at))) for beside, at in ((before, seams), (after, seams - 1))
    )
    mask = first // max(pixels, 1)
    return mask, first - mask * pixels, last + 1 - mask * pixels


def _marks(some: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Words of which the numbers are `some` -> 1 at those of the places that are in one of them."""
    marks = np.zeros(some.size * WORD, bool)
    word, inside = np.divmod(places, WORD)
    at = np.searchsorted(some, word)
    here = some[at] == word
    marks[at[here] * WORD + inside[here]] = True
    return marks.view("<u8")


def _places(some: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The places that are 1, in order."""
    at = np.flatnonzero(words.view(bool))
    return some.take(at // WORD) * WORD + at % WORD


def of_pixels(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[h, w] or [h, w, c] -> (start int64[k], value [k] or [k, c]) of all runs."""
    flat = pixels.reshape(-1, *pixels.shape[2:])
    start = np.append(0, changes(flat))[: len(flat)]
    return start, flat.take(start, axis=0)  # many times as fast as to index


def look_up(values: np.ndarray, known: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """Whole numbers [k] -> uint16[k], 0 for what is not known and from 1 on the place in `known`; and, in order,
    those that are neither 0 nor known."""
    values, order = values.astype(np.int64), np.argsort(known, kind="stable")
    rows = np.append(np.asarray(known, np.int64)[order], -1)
    at = np.searchsorted(rows[:-1], values)
    found = rows[at] == values
    labels = np.where(found, np.append(order, 0)[at] + 1, 0).astype(np.uint16)
    return labels, np.unique(values[~found & (values != 0)]).tolist()


def places(ids: np.ndarray, known: Sequence[int]) -> tuple[np.ndarray, list[int]]:
    """As `look_up`, of a map [h, w]: of its runs, not of each pixel."""
    start, values = of_pixels(ids)
    labels, strange = look_up(values, known)
    return np.repeat(labels, np.diff(start, append=ids.size)).reshape(ids.shape), strange


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
