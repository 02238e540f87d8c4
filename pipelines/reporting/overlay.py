"""What was found, over the image it was found in."""

from collections.abc import Sequence

import cv2
import numpy as np

from pipelines.reporting.pictures import PAPER, RGB, borders, shade


def overlay(
    image: np.ndarray, masks: Sequence[np.ndarray], categories: Sequence[int], colors: Sequence[RGB], *, alpha: float
) -> np.ndarray:
    """uint8[h, w, 3], and masks bool[h, w] with their classes -> the image with every mask in its class's colour,
    several of one class in different shades, outlined; the smaller in front."""
    shades, seen = np.zeros((len(masks) + 1, 3), np.uint8), dict[int, int]()
    for number, category in enumerate(categories, start=1):
        nth = seen[category] = seen.get(category, -1) + 1
        shades[number] = shade(colors[category], nth)
    owner = np.zeros(image.shape[:2], np.uint16)
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    for i in sorted(range(len(masks)), key=lambda i: -areas[i]):
        owner[masks[i]] = i + 1
    painted = cv2.addWeighted(image, 1 - alpha, shades[owner], alpha, 0)
    picture: np.ndarray = np.where((owner > 0)[..., None], painted, image)
    picture[borders(owner)] = PAPER
    return picture
