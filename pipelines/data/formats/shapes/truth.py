"""What is known of an image: from the groups that are seen to a semantic map and visible masks."""

import cv2
import numpy as np

from pipelines.data.formats.shapes.layout import Layout
from pipelines.data.formats.shapes.render import GLARE, MIN_PIXELS
from pipelines.data.formats.shapes.textures import STUFF
from pipelines.data.schema import IGNORE

Mask = tuple[int, bool, np.ndarray]  # category, iscrowd, bool[h, w]


def annotate(stuff: np.ndarray, groups: np.ndarray, layout: Layout) -> tuple[np.ndarray, list[Mask]]:
    """uint8[h, w] and the masks, which are disjoint and hold exactly the thing pixels of the map."""
    ignored = groups == GLARE
    if layout.bordered:
        # A pixel with something nearer beside it: the border is one pixel wide and lies on what is behind.
        ignored |= cv2.dilate(groups.astype(np.float32), np.ones((3, 3), np.uint8)) > np.maximum(groups, 0)
    semantic = np.where(ignored | (groups > 0), IGNORE, stuff).astype(np.uint8)
    known = np.where(ignored, 0, groups)
    masks: list[Mask] = []
    for group, item in {item.group: item for item in layout.items}.items():
        mask = known == group
        if np.count_nonzero(mask) >= MIN_PIXELS:  # else a border or a glare left too little: it stays ignored
            category = len(STUFF) + item.kind
            semantic[mask] = category
            masks.append((category, item.iscrowd, mask))
    return semantic, masks
