"""Which predicted segment found which true one, for the eye: the metrics count for themselves."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Matches:
    """Rows of the true and of the predicted masks. A prediction in neither `pairs` nor `invented` lies mostly on a
    crowd or on unknown pixels, and is not judged."""

    pairs: tuple[tuple[int, int], ...]  # true segment, predicted segment
    missed: tuple[int, ...]
    invented: tuple[int, ...]


def match(
    truth: np.ndarray,
    truth_labels: np.ndarray,
    predicted: np.ndarray,
    predicted_labels: np.ndarray,
    *,
    iscrowd: np.ndarray,
    unknown: np.ndarray,
) -> Matches:
    """Masks bool[n, h, w] and bool[m, h, w], the predicted ones by falling score: each takes the free true segment of
    its class that it overlaps most, from an IoU of 0.5 on. Crowds are nobody's, and `unknown` bool[h, w] is not seen.
    """
    seen = (~unknown).ravel()
    t = truth.reshape(len(truth), seen.size)[:, seen].astype(np.float32)
    p = predicted.reshape(len(predicted), seen.size)[:, seen].astype(np.float32)
    shared, areas = p @ t.T, p.sum(axis=1)
    iou = shared / np.maximum(areas[:, None] + t.sum(axis=1) - shared, 1)
    iou[(predicted_labels[:, None] != truth_labels) | iscrowd] = 0

    pairs: list[tuple[int, int]] = []
    for row in range(len(p)):
        best = int(iou[row].argmax()) if len(t) else 0
        if len(t) and iou[row, best] >= 0.5:
            pairs.append((best, row))
            iou[:, best] = 0
    hidden = 1 - areas / np.maximum(predicted.reshape(len(predicted), seen.size).sum(axis=1), 1)
    crowded = (shared * iscrowd).sum(axis=1) / np.maximum(areas, 1)
    judged = (hidden <= 0.5) & (crowded <= 0.5)
    found, used = {t for t, _ in pairs}, {p for _, p in pairs}
    return Matches(
        pairs=tuple(pairs),
        missed=tuple(i for i in range(len(t)) if i not in found and not iscrowd[i]),
        invented=tuple(i for i in range(len(p)) if i not in used and judged[i]),
    )
