"""Which split an image belongs to, where the dataset publishes none.

Images of one group (a video, a patient, a scene) stay together, since near-identical frames on both sides of a split
measure memory and not skill. With `stratify` the classes are spread evenly, over whole groups; what is added later can
then move others, so the lists that ingest writes may be put back into the dataset to pin them. Without it the place of
a group follows from its name's hash alone, and nothing ever moves.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from pipelines.data.schema import SPLITS, Split


def assign(
    groups: Sequence[str], labels: Sequence[frozenset[int]] | None, fractions: Mapping[str, float]
) -> list[Split]:
    """A split for each image, by its group, its classes (None: not stratified) and the splits' fractions."""
    if labels is None:
        return [by_hash(group, fractions) for group in groups]
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    names = sorted(members, key=_hash)  # an order that no naming scheme aligns with
    counts = _counts([members[name] for name in names], labels)
    placed = _stratified(counts, np.array([fractions[split] for split in SPLITS]))
    found: list[Split] = ["train"] * len(groups)
    for name, k in zip(names, placed, strict=True):
        for i in members[name]:
            found[i] = cast(Split, SPLITS[k])
    return found


def by_hash(group: str, fractions: Mapping[str, float]) -> Split:
    """Adding images, or another seed, moves none to another split."""
    at = _hash(group) / 2**64 * sum(fractions.values())
    used = [split for split in SPLITS if fractions[split] > 0]
    for split in used[:-1]:
        if at < fractions[split]:
            return cast(Split, split)
        at -= fractions[split]
    return cast(Split, used[-1])


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8])


def _counts(members: Sequence[Sequence[int]], labels: Sequence[frozenset[int]]) -> np.ndarray:
    """int32[groups, 1 + classes]: images of each group, and of them those that show each class."""
    classes = sorted(set().union(*labels)) if labels else []
    column = {label: k for k, label in enumerate(classes, start=1)}
    counts = np.zeros((len(members), 1 + len(classes)), np.int32)
    for row, images in enumerate(members):
        counts[row, 0] = len(images)
        for i in images:
            for label in labels[i]:
                counts[row, column[label]] += 1
    return counts


def _stratified(counts: np.ndarray, fractions: np.ndarray) -> list[int]:
    """The split of each group. Groups of the rarest classes come first, while there is room everywhere; each goes where
    it adds least to the sum over classes of squared shares, n^2 / fraction, which is least where shares are even."""
    used = np.flatnonzero(fractions > 0)
    share = fractions[used] / fractions.sum()
    total = np.maximum(counts.sum(axis=0), 1)
    held = np.zeros((len(used), counts.shape[1]))
    placed = np.zeros(len(counts), np.int64)
    rarest = np.full(len(counts), np.iinfo(np.int64).max)
    for column, images in zip(counts.T, total.tolist(), strict=True):
        rarest[column > 0] = np.minimum(rarest[column > 0], images)
    for row in np.lexsort((-counts[:, 0], rarest)):
        group = counts[row].astype(np.int64)
        cost = ((2 * held + group) * group / total.astype(float) ** 2).sum(axis=1) / share
        best = int(cost.round(12).argmin())
        placed[row] = used[best]
        held[best] += group
    return placed.tolist()
