"""Truths, predictions and their differences as pictures: pure functions, uint8[h, w, 3] RGB.

Classes keep the colours of their table. What says right or wrong is of Okabe and Ito's palette (2008), which stays
apart for colour-blind eyes; what nobody knows (ignored, void, crowds) is hatched, since any flat grey may be a class.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.data.prediction import Panoptic
from pipelines.data.schema import IGNORE, ClassInfo
from pipelines.reporting.matching import Matches

RGB = tuple[int, int, int]
# What an error map holds, and how it is painted.
NOTHING, MATCHED, MISSED, INVENTED, CONFUSED, UNKNOWN = range(6)
VERDICTS: dict[int, RGB] = {
    MATCHED: (0, 114, 178),  # blue
    MISSED: (240, 228, 66),  # yellow
    INVENTED: (213, 94, 0),  # vermilion
    CONFUSED: (204, 121, 167),  # purple
}
HATCH: tuple[RGB, RGB] = ((96, 96, 100), (150, 150, 156))
TRUTH, PREDICTION = (86, 180, 233), (230, 159, 0)  # outlines: sky blue and orange
SMALLEST = 32  # pixels of the image that a crop shows at least
INK, PAPER = (24, 28, 36), (255, 255, 255)


def display_size(height: int, width: int, *, largest: int) -> tuple[int, int]:
    """Small images are enlarged by a whole number, to about 256 pixels; large ones are shrunk to `largest`."""
    side = max(height, width)
    if side <= 256:
        return height * (256 // side), width * (256 // side)
    scale = min(1.0, largest / side)
    return max(1, round(height * scale)), max(1, round(width * scale))


def fit(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A photograph at that size: averaged when it shrinks, its pixels kept as blocks when it grows."""
    if size[0] * size[1] < picture.shape[0] * picture.shape[1]:
        smaller: np.ndarray = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_AREA)
        return smaller
    return fit_map(picture, size)


def fit_map(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[h, w, ...] -> [*size, ...]: ids, codes and masks, whose values have no average."""
    rows, cols = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for new, old in zip(size, values.shape, strict=False)
    )
    return np.asarray(values[rows[:, None], cols])


def colorize(semantic: np.ndarray, classes: Sequence[ClassInfo]) -> np.ndarray:
    """uint8[h, w] class ids -> their colours; ignored pixels hatched."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(classes)] = [c.color for c in classes]
    return _hatched(table[semantic], semantic == IGNORE)


def instances(
    image: np.ndarray,
    masks: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[ClassInfo],
    *,
    iscrowd: np.ndarray | None = None,
) -> np.ndarray:
    """The masks bool[n, h, w] over the faded image, in their class's colour and outlined; the smaller in front. The
    mask of a crowd is striped."""
    picture = _faded(image)
    for i in np.argsort(-masks.sum(axis=(1, 2)), kind="stable"):
        crowd = iscrowd is not None and iscrowd[i]
        fill = masks[i] & _stripes(masks[i].shape) if crowd else masks[i]
        picture[fill] = (picture[fill] * 0.4 + np.array(classes[labels[i]].color) * 0.6).astype(np.uint8)
        picture[_rim(masks[i])] = PAPER
    return picture


def panoptic(view: Panoptic, classes: Sequence[ClassInfo]) -> np.ndarray:
    """Every segment in its class's colour, things of one class in different shades, white borders; void hatched."""
    table = np.zeros((len(view.labels) + 1, 3), np.uint8)
    seen: dict[int, int] = {}
    for row, label in enumerate(view.labels.tolist(), start=1):
        nth = seen[label] = seen.get(label, -1) + 1
        table[row] = shade(classes[label].color, nth)
    picture = _hatched(table[view.ids], view.ids == 0)
    picture[borders(view.ids)] = PAPER
    return picture


def semantic_errors(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """uint8[h, w] verdicts: INVENTED where the class is wrong, UNKNOWN where the truth is ignored."""
    wrong = np.where(truth != predicted, INVENTED, NOTHING)
    return np.where(truth == IGNORE, UNKNOWN, wrong).astype(np.uint8)


def segment_errors(truth: np.ndarray, predicted: np.ndarray, matches: Matches, unknown: np.ndarray) -> np.ndarray:
    """uint8[h, w] verdicts of masks bool[n, h, w] against bool[m, h, w].

    A matched pair is MATCHED where both are, MISSED or INVENTED where one is; a pixel that is both missed and
    invented was taken for something else: CONFUSED.
    """
    matched, missed, invented = (np.zeros(unknown.shape, bool) for _ in range(3))
    for t, p in matches.pairs:
        matched |= truth[t] & predicted[p]
        missed |= truth[t] & ~predicted[p]
        invented |= predicted[p] & ~truth[t]
    for t in matches.missed:
        missed |= truth[t]
    for p in matches.invented:
        invented |= predicted[p]
    conditions = [unknown, matched, missed & invented, missed, invented]
    return np.select(conditions, [UNKNOWN, MATCHED, CONFUSED, MISSED, INVENTED], NOTHING).astype(np.uint8)


def paint_errors(image: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """The image in grey, with its verdicts over it."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].repeat(3, axis=2)
    picture = _faded(grey)
    for verdict, color in VERDICTS.items():
        at = verdicts == verdict
        ink = 0.35 if verdict == MATCHED else 0.8  # what is right steps back
        picture[at] = (picture[at] * (1 - ink) + np.array(color) * ink).astype(np.uint8)
    return _hatched(picture, verdicts == UNKNOWN)


def legend(classes: Sequence[ClassInfo], *, width: int) -> np.ndarray:
    """Every class's colour and name, and what is hatched, in as many lines as it takes."""
    font, row, gap = ImageFont.load_default(14), 24, 18
    names = [*(c.name for c in classes), "ignored"]
    places, x, y = [], 8, 4
    for name in names:
        step = 22 + round(font.getlength(name)) + gap
        if x + step > width and x > 8:
            x, y = 8, y + row
        places.append((x, y))
        x += step
    sheet = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(sheet)
    for name, (x, y) in zip(names, places, strict=True):
        draw.text((x + 22, y + 1), name, font=font, fill=INK)
    picture = np.array(sheet)
    for i, (x, y) in enumerate(places):
        swatch = np.full((16, 16), i if i < len(classes) else IGNORE, np.uint8)
        picture[y + 2 : y + 18, x : x + 16] = colorize(swatch, classes)
    return picture


def contact_sheet(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], *, gap: int = 8) -> np.ndarray:
    """Rows of pictures under their columns' titles. A cell is as large as the largest picture."""
    head = 28
    height = max(p.shape[0] for row in rows for p in row)
    width = max(p.shape[1] for row in rows for p in row)
    shape = (head + len(rows) * (height + gap), gap + len(titles) * (width + gap), 3)
    sheet = Image.fromarray(np.full(shape, 255, np.uint8))
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        draw.text((gap + column * (width + gap), 6), title, font=ImageFont.load_default(15), fill=INK)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture), (gap + j * (width + gap), head + i * (height + gap)))
    return np.array(sheet)


def outlined(image: np.ndarray, shapes: Sequence[tuple[np.ndarray, RGB]], *, side: int) -> np.ndarray:
    """What is around some masks bool[h, w], as a picture of at most `side` by `side` pixels, each mask outlined in its
    colour, the last in front."""
    top, left, bottom, right = _around(np.logical_or.reduce([mask for mask, _ in shapes]))
    height, width = bottom - top, right - left
    size = (max(1, round(height * side / max(height, width))), max(1, round(width * side / max(height, width))))
    way = cv2.INTER_AREA if height > size[0] else cv2.INTER_LINEAR
    picture = np.ascontiguousarray(cv2.resize(image[top:bottom, left:right], size[::-1], interpolation=way))
    for mask, color in shapes:
        shown = fit_map(mask[top:bottom, left:right], size).astype(np.uint8)
        rims = cv2.findContours(shown, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[0]
        cv2.drawContours(picture, rims, -1, INK, 4)
        cv2.drawContours(picture, rims, -1, color, 2)
    return picture


def _around(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of a square around what is set, with a margin; within the image, so less than a square
    where that is narrow."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    ends = []
    side = max(SMALLEST, round(1.5 * (1 + max(rows[-1] - rows[0], cols[-1] - cols[0]))))
    for at, length in ((rows, mask.shape[0]), (cols, mask.shape[1])):
        start = min(max(0, (int(at[0]) + int(at[-1]) + 1 - side) // 2), max(0, length - side))
        ends.append((start, min(length, start + side)))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def _stripes(shape: tuple[int, ...]) -> np.ndarray:
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    return np.asarray((rows + cols) // 4 % 2 == 0)


def _hatched(picture: np.ndarray, where: np.ndarray) -> np.ndarray:
    stripes = np.where(_stripes(where.shape)[..., None], *np.array(HATCH, np.uint8))
    return np.where(where[..., None], stripes, picture)


def _faded(image: np.ndarray) -> np.ndarray:
    return (image * 0.6 + 40).astype(np.uint8)


def _rim(mask: np.ndarray) -> np.ndarray:
    """The mask's outermost pixels."""
    inner: np.ndarray = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    return np.asarray(mask & ~inner)


def borders(ids: np.ndarray) -> np.ndarray:
    """Pixels whose right or lower neighbour is of another segment."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] = ids[:, :-1] != ids[:, 1:]
    edge[:-1] |= ids[:-1] != ids[1:]
    return edge


def shade(color: RGB, nth: int) -> np.ndarray:
    """The class's colour itself, then lighter and darker ones in turn."""
    step = (0.0, 0.3, -0.25, 0.5, -0.45, 0.15, -0.12)[nth % 7]
    towards = 255 if step > 0 else 0
    return np.round(np.array(color) * (1 - abs(step)) + towards * abs(step)).astype(np.uint8)
