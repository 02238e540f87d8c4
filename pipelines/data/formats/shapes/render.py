"""A layout becomes an image and the group of things that each pixel shows."""

from dataclasses import dataclass

import cv2
import numpy as np

from pipelines.data.formats.shapes.forms import THINGS
from pipelines.data.formats.shapes.layout import Item, Layout
from pipelines.data.formats.shapes.textures import noise

MIN_VISIBLE = 0.2  # of an item's pixels; below it, or below MIN_PIXELS, the item is left out
MIN_PIXELS = 12
GLARE = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """An item's distance field over the part of the frame that it and its shadow touch."""

    item: Item
    window: tuple[slice, slice]
    u: np.ndarray  # the item's own coordinates
    v: np.ndarray
    distance: np.ndarray  # in pixels


def _patch(item: Item, layout: Layout) -> Patch:
    reach = item.radius * 1.05 + 0.06 * layout.side + 2
    y0, y1 = max(int(item.y - reach), 0), min(int(item.y + reach) + 1, layout.height)
    x0, x1 = max(int(item.x - reach), 0), min(int(item.x + reach) + 1, layout.width)
    dy = (np.arange(y0, y1, dtype=np.float32) + 0.5 - item.y)[:, None] / np.float32(item.radius)
    dx = (np.arange(x0, x1, dtype=np.float32) + 0.5 - item.x)[None, :] / np.float32(item.radius)
    cos, sin = np.float32(np.cos(item.angle)), np.float32(np.sin(item.angle))
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    distance = (THINGS[item.kind].distance(u, v) * item.radius).astype(np.float32)
    return Patch(item=item, window=(slice(y0, y1), slice(x0, x1)), u=u, v=v, distance=distance)


def place(layout: Layout) -> tuple[list[Patch], np.ndarray]:
    """The items that show, from back to front, and the group that each pixel shows: 0 is the ground, GLARE nothing.

    Going from front to back, an item that is mostly hidden is left out before it can hide another.
    """
    shown: list[Patch] = []
    groups = np.zeros((layout.height, layout.width), np.int32)
    if layout.glare:
        x, y, radius = layout.glare
        rows, cols = np.ogrid[: layout.height, : layout.width]
        groups[np.hypot(cols + 0.5 - x, rows + 0.5 - y) < 1.1 * radius] = GLARE
    for item in reversed(layout.items):
        patch = _patch(item, layout)
        mask, region = patch.distance < 0, groups[patch.window]
        visible = mask & (region == 0)
        pixels = np.count_nonzero(visible)
        if pixels >= max(MIN_VISIBLE * np.count_nonzero(mask), MIN_PIXELS):
            region[visible] = item.group
            shown.append(patch)
    return shown[::-1], groups


def _shaded(patch: Patch, light: np.ndarray) -> np.ndarray:
    """The item's surface under the light, float32[h, w, 3]."""
    thing, item = THINGS[patch.item.kind], patch.item
    first, second = (np.array(c, np.float32) for c in item.colors)
    albedo = first + (second - first) * thing.pattern(patch.u, patch.v).astype(np.float32)[..., None]
    slope = 1 - np.clip(-patch.distance / np.float32(thing.bevel * item.radius), 0, 1)
    dx = cv2.Sobel(patch.distance, cv2.CV_32F, 1, 0, scale=1 / 8) * slope
    dy = cv2.Sobel(patch.distance, cv2.CV_32F, 0, 1, scale=1 / 8) * slope
    dz = np.sqrt(np.maximum(1.02 - np.square(slope), 0))
    diffuse = np.clip(dx * light[0] + dy * light[1] + dz * light[2], 0, 1)
    half = light + np.array((0, 0, 1), np.float32)
    half /= np.linalg.norm(half)
    gleam = thing.gloss * np.clip(dx * half[0] + dy * half[1] + dz * half[2], 0, 1) ** 30
    return np.asarray(albedo * (0.4 + 0.72 * diffuse)[..., None] + gleam[..., None], np.float32)


def _put(image: np.ndarray, patch: Patch, light: np.ndarray, lift: float, fabric: np.ndarray) -> None:
    """Lay one item and its shadow onto the image."""
    region = image[patch.window]
    shift = np.array(((1, 0, -light[0] * lift), (0, 1, -light[1] * lift)), np.float32)
    cast = cv2.warpAffine(patch.distance, shift, patch.distance.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    region *= (1 - 0.5 * np.clip(0.5 - cast / np.float32(1 + 0.9 * lift), 0, 1))[..., None]
    cover = np.clip(0.5 - patch.distance, 0, 1)[..., None]
    surface = _shaded(patch, light) * (1 + fabric[patch.window])[..., None]
    region += (surface - region) * cover


def _litter(rng: np.random.Generator, image: np.ndarray, layout: Layout, light: np.ndarray) -> None:
    """Pebbles that nobody labels: part of the ground, and more of them the harder it is."""
    side = layout.side
    for _ in range(int(rng.poisson(14 * layout.difficulty))):
        radius = max(rng.uniform(0.006, 0.018) * side, 1.0)
        x, y, grey = rng.uniform(0, layout.width), rng.uniform(0, layout.height), rng.uniform(0.2, 0.75)
        reach = int(radius * 2.5) + 2
        y0, x0 = max(int(y) - reach, 0), max(int(x) - reach, 0)
        region = image[y0 : int(y) + reach + 1, x0 : int(x) + reach + 1]
        rows = np.arange(y0, y0 + region.shape[0], dtype=np.float32)[:, None] + 0.5 - y
        cols = np.arange(x0, x0 + region.shape[1], dtype=np.float32)[None, :] + 0.5 - x
        distance = np.hypot(rows, cols * rng.uniform(0.6, 1.4)) - radius
        lit = grey * (1 + 0.5 * np.clip((cols * light[0] + rows * light[1]) / radius, -1, 1))
        region *= (1 - 0.35 * np.clip(0.8 - distance / radius, 0, 1))[..., None]
        region += (lit[..., None] - region) * np.clip(0.5 - distance, 0, 1)[..., None]


def paint(rng: np.random.Generator, image: np.ndarray, patches: list[Patch], layout: Layout) -> np.ndarray:
    """uint8[h, w, 3], RGB: the things on the ground under one light, as a camera sees them. Changes `image`."""
    turn, tilt = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 0.95)
    light = np.array((np.cos(turn) * np.cos(tilt), np.sin(turn) * np.cos(tilt), np.sin(tilt)), np.float32)
    _litter(rng, image, layout, light)
    fabric = 0.05 * noise(rng, layout.height, layout.width, 0.015)
    for patch in patches:
        _put(image, patch, light, 0.035 * layout.side, fabric)
    return _photograph(rng, image, layout, light)


def _photograph(rng: np.random.Generator, image: np.ndarray, layout: Layout, light: np.ndarray) -> np.ndarray:
    """Uneven light, vignette, haze, glare, blur, sensor noise."""
    height, width, hard = layout.height, layout.width, layout.difficulty
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    cols = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    gain = 1 + (0.06 + 0.14 * hard) * (cols * light[0] + rows * light[1]) - (0.06 + 0.09 * hard) * (cols**2 + rows**2)
    tint = rng.normal(1, 0.01 + 0.05 * hard, 3) * rng.normal(1.12, 0.02 + 0.08 * hard)
    image *= gain[..., None]
    image *= tint.astype(np.float32)
    if layout.glare:
        x, y, radius = layout.glare
        far = np.hypot(cols * width / 2 + width / 2 - x, rows * height / 2 + height / 2 - y) / radius
        image += np.clip(2.4 - 1.6 * far, 0, 1)[..., None] ** 2
    contrast = np.float32(1 - 0.35 * hard * rng.random())
    image *= contrast
    image += (1 - contrast) * np.float32(0.55)
    if blur := 0.006 * hard * layout.side * rng.random():
        image = cv2.GaussianBlur(image, (0, 0), max(blur, 0.1))
    if hard:
        image += rng.standard_normal(image.shape, np.float32) * np.float32(0.06 * hard * rng.uniform(0.3, 1))
    return np.asarray(np.clip(image * 255 + 0.5, 0, 255), np.uint8)
