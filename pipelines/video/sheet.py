"""A video at one glance: some of its frames, evenly spread, with every object in a colour of its own."""

from collections.abc import Mapping

import numpy as np

from pipelines.data.classes import color
from pipelines.data.schema import ClassInfo
from pipelines.reporting import pictures

LARGEST = 320  # pixels of a frame's longer side
COLUMNS = 4


class Sheet:
    """Keeps at most twice `count` frames, however long the video is."""

    def __init__(self, count: int):
        self.count, self.every, self.seen = count, 1, 0
        self.kept: list[tuple[str, np.ndarray]] = []

    def add(self, title: str, image: np.ndarray, objects: Mapping[int, np.ndarray]) -> None:
        """`objects`: id -> bool[h, w]."""
        if self.seen % self.every == 0:
            self.kept.append((title, overlay(image, objects)))
        self.seen += 1
        if len(self.kept) > 2 * self.count:
            self.kept, self.every = self.kept[::2], 2 * self.every

    def picture(self) -> np.ndarray:
        """uint8[h, w, 3] RGB; a row holds `COLUMNS` frames."""
        places = np.linspace(0, len(self.kept) - 1, min(self.count, len(self.kept))).round().astype(int)
        chosen = [self.kept[k] for k in places]
        rows = [chosen[k : k + COLUMNS] for k in range(0, len(chosen), COLUMNS)]
        blocks = [pictures.contact_sheet([[p for _, p in row]], [title for title, _ in row], gap=4) for row in rows]
        width = max(block.shape[1] for block in blocks)
        return np.concatenate(
            [np.pad(b, ((0, 0), (0, width - b.shape[1]), (0, 0)), constant_values=255) for b in blocks]
        )


def overlay(image: np.ndarray, objects: Mapping[int, np.ndarray]) -> np.ndarray:
    """The frame, shrunk or enlarged, with its objects over it."""
    size = pictures.display_size(*image.shape[:2], largest=LARGEST)
    shown = pictures.fit(image, size)
    masks = np.array([pictures.fit_map(mask, size) for mask in objects.values()], bool).reshape(-1, *size)
    colors = [ClassInfo(name=str(i), color=color(i), isthing=True) for i in objects]
    return pictures.instances(shown, masks, np.arange(len(colors)), colors)
