"""Run-length masks in COCO's convention: column-major order, the first run counts zeros."""

import numpy as np


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
