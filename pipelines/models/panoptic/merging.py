"""Instances and a semantic map, merged to a panoptic prediction by rule: Kirillov et al. (arXiv 1801.00868, section 7),
with the least area of stuff that Panoptic-FPN (arXiv 1901.02446) adds.

The two may come of one network or of any two: `merge(one.instances, other.semantic, stuff=classes.stuff)` makes a
panoptic prediction of an instance model's and a semantic model's. The most certain instances come first; one that more
than half is already taken of is a repetition; stuff has what is left, where it is not a speck.

Deviation: the papers' 4096 pixels are of COCO's images, and so are a share of the image here. Held against the rule as
panopticapi's script has it, one instance after the other on whole images.
"""

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import find_objects

from pipelines.data.prediction import Instances, Panoptic, Prediction

MIN_SCORE = 0.5
MAX_OVERLAP = 0.5
MIN_STUFF = 4096 / (640 * 480)


def merge(
    instances: Instances,
    semantic: np.ndarray,
    *,
    stuff: Sequence[int],
    min_score: float = MIN_SCORE,
    max_overlap: float = MAX_OVERLAP,
    min_stuff: float = MIN_STUFF,
) -> Prediction:
    """`semantic`: uint8[h, w] class ids. Instances below `min_score`, and those with more than the share `max_overlap`
    taken already, are left out, and a class of stuff with less than `min_stuff` of the image.

    All three views follow: instances no longer overlap, each pixel's class is its segment's. Where there is none (a
    thing by its class without an instance, a speck), the panoptic view is void and the class the semantic map's own.
    """
    order = np.argsort(-instances.scores, kind="stable")
    order = order[instances.scores[order] >= min_score]
    ids, taken = occupy(instances.masks, order, max_overlap)
    return compose(
        ids, instances.labels[taken], instances.scores[taken], semantic, semantic, stuff=stuff, min_stuff=min_stuff
    )


def occupy(masks: np.ndarray, order: np.ndarray, max_overlap: float) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel to the first that claims it: int32[h, w], 0 or k + 1 for row `taken[k]` of `masks`; and `taken`.

    What comes next depends on what has been taken, so this is a loop; a step costs what its own mask has of pixels,
    and the search for them.
    """
    ids = np.zeros(masks.shape[1:], np.int32)
    flat, taken = ids.reshape(-1), []
    for row in order.tolist():
        pixels = np.flatnonzero(masks[row])
        free = pixels[flat[pixels] == 0]
        if len(free) and (len(pixels) - len(free)) / len(pixels) <= max_overlap:
            taken.append(row)
            flat[free] = len(taken)
    return ids, np.array(taken, np.int64)


def compose(
    ids: np.ndarray,
    labels: np.ndarray,
    scores: np.ndarray,
    rest: np.ndarray,
    semantic: np.ndarray,
    *,
    stuff: Sequence[int],
    min_stuff: float,
) -> Prediction:
    """Things as int32[h, w], 0 or k + 1 for row k of `labels` and `scores`, over the stuff of `rest`: uint8[h, w] class
    ids, in which those that are no stuff stay void. `semantic`: the class of each pixel where void is no answer."""
    left = np.bincount(rest[ids == 0], minlength=256)
    chosen = np.array([c for c in sorted(stuff) if left[c] and left[c] / ids.size >= min_stuff], np.int64)
    seen = np.flatnonzero(np.bincount(ids.reshape(-1), minlength=len(labels) + 1)[1:])
    rows = _numbered(len(labels) + 1, seen + 1, 1)
    things = rows[ids]
    whole = np.where(things > 0, things, _numbered(256, chosen, len(seen) + 1)[rest])
    names = np.append(labels[seen], chosen)
    return Prediction(
        semantic=np.where(whole > 0, np.append(0, names)[whole], semantic).astype(np.uint8),
        instances=_instances(things, labels[seen], scores[seen]),
        panoptic=Panoptic(ids=whole, labels=names, iscrowd=np.zeros(len(names), bool)),
    )


def _numbered(count: int, places: np.ndarray, start: int) -> np.ndarray:
    """int32[count] of zeros, but for numbers from `start` on at the places."""
    table = np.zeros(count, np.int32)
    table[places] = np.arange(start, start + len(places))
    return table


def _instances(ids: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> Instances:
    """One mask for each number from 1 on, each of which has pixels."""
    masks = np.zeros((len(labels), *ids.shape), bool)
    windows = find_objects(ids, max_label=len(labels))
    for number, (mask, window) in enumerate(zip(masks, windows, strict=True), start=1):
        mask[window] = ids[window] == number
    boxes = np.array([(x.start, y.start, x.stop, y.stop) for y, x in windows], np.float32).reshape(-1, 4)
    return Instances(masks=masks, labels=labels, scores=scores, boxes=boxes)
