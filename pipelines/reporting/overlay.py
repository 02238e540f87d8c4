"""What was found, over the image it was found in."""

from collections.abc import Sequence

import numpy as np

from pipelines.reporting.pictures import PAPER, RGB, rim, shade


def overlay(
    image: np.ndarray,
    masks: Sequence[np.ndarray],
    categories: Sequence[int],
    colors: Sequence[RGB],
    *,
    alpha: float,
) -> np.ndarray:
    """uint8[h, w, 3], and masks bool[h, w] with their classes -> the image with every mask in its class's colour,
    several of one class in different shades, outlined; the smaller in front."""
    picture = image.copy()
    shades, seen = [], dict[int, int]()
    for category in categories:
        nth = seen[category] = seen.get(category, -1) + 1
        shades.append(shade(colors[category], nth))
    for i in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        mask = masks[i]
        picture[mask] = (image[mask] * (1 - alpha) + shades[i].astype(np.float32) * alpha).astype(np.uint8)
        picture[rim(mask)] = PAPER
    return picture
