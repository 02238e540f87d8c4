"""Run-length masks in COCO's convention: column-major order, the first run counts zeros."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.data.faults import FaultError

CHARACTERS = 7  # of one number in a compressed string: 35 bits


def encode(mask: np.ndarray) -> np.ndarray:
    """bool[h, w] -> uint32[n] run lengths."""
    flat = np.asarray(mask, dtype=bool).ravel(order="F")
    if flat.size == 0:
        return np.zeros(0, np.uint32)
    change = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(change, prepend=0, append=flat.size)
    return np.concatenate([[0], runs] if flat[0] else [runs]).astype(np.uint32)


def decode(counts: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint32[n] run lengths -> bool[h, w]; refuses runs that do not fill the mask exactly."""
    counts = np.asarray(counts, dtype=np.int64)
    if counts.sum() != height * width or (counts < 0).any():
        raise ValueError(f"RLE sum {counts.sum()} != h*w {height * width}")
    values = np.arange(counts.size, dtype=np.int64) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def area(counts: np.ndarray) -> int:
    """Pixels that are set."""
    return int(np.asarray(counts, dtype=np.int64)[1::2].sum())


def bbox(mask: np.ndarray) -> tuple[int, int, int, int]:
    """bool[h, w] -> the tight box x, y, width, height; zeros for an empty mask."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return (0, 0, 0, 0)
    return (int(cols[0]), int(rows[0]), int(cols[-1] - cols[0] + 1), int(rows[-1] - rows[0] + 1))


def pieces(counts: np.ndarray, offsets: np.ndarray, height: int, width: int) -> tuple[np.ndarray, ...]:
    """Many masks of one size -> their set pixels as int64[n] each of mask, column, top and bottom: what each run covers
    of each column, in order. Mask i has the run lengths counts[offsets[i]:offsets[i + 1]]."""
    lengths = np.diff(offsets)
    counts = counts[offsets[0] : offsets[-1]].astype(np.int64)
    first = offsets[:-1] - offsets[0]
    mask = np.repeat(np.arange(lengths.size), lengths)
    sums = np.bincount(mask, weights=counts, minlength=lengths.size).astype(np.int64)  # exact below 2^53
    if (wrong := sums != height * width).any():
        raise ValueError(f"RLE sum {sums[wrong][0]} != h*w {height * width}")
    ends = np.cumsum(counts) - mask * (height * width)
    isset = ((np.arange(mask.size) - first[mask]) % 2 == 1) & (counts > 0)
    mask, ends, counts = mask[isset], ends[isset], counts[isset]
    column, top = np.divmod(ends - counts, height)
    last, bottom = np.divmod(ends - 1, height)
    if (parts := last - column + 1).max(initial=1) > 1:  # a run that goes on at the top of the next column
        at = np.repeat(np.arange(mask.size), parts)
        step = np.arange(at.size) - np.repeat(np.cumsum(parts) - parts, parts)
        mask, top, bottom = (
            mask[at],
            np.where(step == 0, top[at], 0),
            np.where(step == parts[at] - 1, bottom[at], height - 1),
        )
        column = column[at] + step
    return mask, column, top, bottom + 1


def from_edges(edges: np.ndarray, pixels: int) -> np.ndarray:
    """Where the mask changes, int64[n] in any order, as places 0..pixels in column-major order -> run lengths. Two
    changes at one place are none."""
    places, times = np.unique(edges[edges < pixels], return_counts=True)
    bounds = np.concatenate([[0], places[times % 2 == 1], [pixels]])
    counts: np.ndarray = (bounds[1:] - bounds[:-1]).astype(np.uint32)
    return counts


def from_list(values: Sequence[Any], height: int, width: int) -> np.ndarray:
    """COCO's uncompressed RLE: a list of run lengths from outside."""
    try:
        counts = np.asarray(values, np.int64) if all(type(v) is int for v in values) else None
    except OverflowError:
        counts = None
    if counts is None:
        raise FaultError("bad-rle", "RLE counts must be whole numbers")
    return _filling(counts, height, width)


def from_string(text: str, height: int, width: int) -> np.ndarray:
    """COCO's compressed RLE: run lengths, from the fourth on as differences to the last but one, each in characters
    of five bits with a sixth that says that more follow, the lowest first."""
    codes = np.frombuffer(text.encode(errors="replace"), np.uint8).astype(np.int64) - ord("0")
    if ((codes < 0) | (codes > 63)).any():
        raise FaultError("bad-rle", "RLE string has characters other than '0' to 'o'")
    last = np.flatnonzero(codes & 32 == 0)
    if codes.size and (not last.size or last[-1] != codes.size - 1):
        raise FaultError("bad-rle", "RLE string ends within a number")
    first = np.concatenate([[0], last + 1]).astype(np.int64)[:-1]
    lengths = last - first + 1
    if lengths.max(initial=0) > CHARACTERS:
        raise FaultError("bad-rle", f"RLE string has a number of more than {CHARACTERS} characters")
    shifts = 5 * (np.arange(codes.size) - np.repeat(first, lengths))
    values = np.add.reduceat((codes & 31) << shifts, first) if codes.size else codes
    values -= np.where(codes[last] & 16, np.int64(1) << 5 * lengths, 0)
    for start in (1, 2):
        values[start::2] = np.cumsum(values[start::2])
    return _filling(values, height, width)


def to_string(counts: np.ndarray) -> str:
    """The inverse of `from_string`."""
    values = counts.astype(np.int64)
    values[3:] -= counts[1:-2]
    # Five bits hold -16..15, ten -512..511, ...: the magnitude's bits and one for the sign.
    lengths = (np.frexp(np.where(values < 0, ~values, values).astype(np.float64))[1] + 5) // 5
    place = np.arange(CHARACTERS)
    codes = (values[:, None] >> 5 * place) & 31 | np.where(place < lengths[:, None] - 1, 32, 0)
    text: bytes = (codes + ord("0")).astype(np.uint8)[place < lengths[:, None]].tobytes()
    return text.decode()


def combine(masks: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """Run lengths of masks of one size, and weights -> those of the pixels at which the weights sum to more than 0."""
    edges = [np.cumsum(counts, dtype=np.int64) for counts, _ in masks]
    signs = [np.where(np.arange(len(counts)) % 2 == 0, weight, -weight) for counts, weight in masks]
    pixels = int(edges[0][-1])
    places, which = np.unique(np.concatenate(edges), return_inverse=True)
    steps = np.bincount(which, weights=np.concatenate(signs), minlength=places.size)
    isset = np.cumsum(steps) > 0
    return from_edges(places[isset != np.concatenate([[False], isset[:-1]])], pixels)


def union(masks: Sequence[np.ndarray]) -> np.ndarray:
    return masks[0] if len(masks) == 1 else combine([(mask, 1) for mask in masks])


def without(mask: np.ndarray, other: np.ndarray) -> np.ndarray:
    return combine([(mask, 1), (other, -1)])


def box(counts: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """As `bbox`, of run lengths, without the mask."""
    ends = np.cumsum(counts, dtype=np.int64)
    isset = (np.arange(counts.size) % 2 == 1) & (counts > 0)
    if not isset.any():
        return (0, 0, 0, 0)
    left, top = np.divmod((ends - counts)[isset], height)
    right, bottom = np.divmod(ends[isset] - 1, height)
    around = left != right  # goes on at the top of the next column
    x, y = int(left[0]), 0 if around.any() else int(top.min())
    low = height - 1 if around.any() else int(bottom.max())
    return (x, y, int(right[-1]) - x + 1, low - y + 1)


def cropped(counts: np.ndarray, height: int) -> tuple[int, int, np.ndarray]:
    """Run lengths -> the tight box's x and y, and what is in it as bool[h, w], without the mask."""
    x, y, width, rows = box(counts, height)
    ends = np.clip(np.cumsum(counts, dtype=np.int64) - x * height, 0, width * height)
    inside = np.repeat(np.arange(counts.size) % 2 == 1, np.diff(ends, prepend=0))
    return x, y, inside.reshape(width, height).T[y : y + rows]


def _filling(counts: np.ndarray, height: int, width: int) -> np.ndarray:
    """Run lengths from outside, checked; those of length 0 within are left out."""
    pixels = height * width
    if (counts < 0).any():
        raise FaultError("bad-rle", f"RLE has a run of length {counts.min()}")
    if counts.max(initial=0) > pixels:  # before they are summed: a sum may overflow
        raise FaultError("bad-rle", f"RLE sum of {counts.max()} or more != h*w {pixels}")
    if counts.sum() != pixels:
        raise FaultError("bad-rle", f"RLE sum {counts.sum()} != h*w {pixels}")
    return from_edges(np.cumsum(counts)[:-1], pixels)
