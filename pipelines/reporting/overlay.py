"""What was found, over the image it was found in."""

from collections.abc import Sequence

import numpy as np

from pipelines.reporting.pictures import PAPER, RGB, borders, shade


def overlay(
    image: np.ndarray, masks: Sequence[np.ndarray], categories: Sequence[int], colors: Sequence[RGB], *, alpha: float
) -> np.ndarray:
    """uint8[h, w, 3], and masks bool[h, w] with their classes -> the image with every mask in its class's colour,
    several of one class in different shades, outlined; the smaller in front."""
    shades, seen = np.zeros((len(masks) + 1, 3), np.float32), dict[int, int]()
    for number, category in enumerate(categories, start=1):
        nth = seen[category] = seen.get(category, -1) + 1
        shades[number] = shade(colors[category], nth)
    owner = np.zeros(image.shape[:2], np.uint16)
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    for i in sorted(range(len(masks)), key=lambda i: -areas[i]):
        owner[masks[i]] = i + 1
    weights = np.where(np.arange(len(masks) + 1) > 0, np.float32(alpha), 0)[owner][..., None]
    picture: np.ndarray = (image * (1 - weights) + shades[owner] * weights).astype(np.uint8)
    picture[borders(owner)] = PAPER
    return picture
