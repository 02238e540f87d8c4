"""The ground: value noise, and the three kinds of stuff made of it."""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Stuff:
    """One row of the table of stuff, in the order from the sea inland: its colour in the table and in the image."""

    name: str
    color: tuple[int, int, int]
    albedo: tuple[float, float, float]


STUFF = (
    Stuff(name="water", color=(40, 110, 190), albedo=(0.16, 0.48, 0.60)),
    Stuff(name="sand", color=(225, 205, 150), albedo=(0.82, 0.71, 0.50)),
    Stuff(name="grass", color=(70, 150, 60), albedo=(0.33, 0.50, 0.18)),
)


def noise(
    rng: np.random.Generator, height: int, width: int, cell: float, *, stretch: float = 1.0, detail: int = 1
) -> np.ndarray:
    """float32[height, width] of about unit deviation, smooth over `cell` (a fraction of the shorter side).

    Each further octave has half the cell and half the weight; `stretch` makes the cells taller than wide.
    """
    total = np.zeros((height, width), np.float32)
    for octave in range(detail):
        size = max(cell * min(height, width) / 2**octave, 1.0)
        shape = (min(int(height / size / stretch) + 3, height), min(int(width / size) + 3, width))
        grid = rng.standard_normal(shape, np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.5**octave
    return total


def terrain(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, tuple[float, float]]:
    """How far inland each pixel is, in shorter sides, and the two levels where water ends and where grass begins."""
    angle = rng.uniform(0, 2 * np.pi)
    side = min(height, width)
    rows = (np.arange(height, dtype=np.float32)[:, None] - height / 2) / side
    cols = (np.arange(width, dtype=np.float32)[None, :] - width / 2) / side
    inland = np.float32(np.cos(angle)) * cols + np.float32(np.sin(angle)) * rows
    inland += noise(rng, height, width, 0.35, detail=4) * np.float32(rng.uniform(0.06, 0.16))
    shares = rng.dirichlet((2.5, 2.5, 2.5))
    shares[shares < 0.07] = 0  # no slivers
    ends = np.cumsum(shares / shares.sum())[:2]
    step = max(side // 64, 1)
    low, high = np.quantile(inland[::step, ::step], ends)
    margin = 1.0  # beyond the frame, so that no sliver of an absent kind remains
    water = float(low) if shares[0] else float(inland.min()) - margin
    grass = float(high) if shares[2] else float(inland.max()) + margin
    return inland, (water, grass if shares[1] else water)


def ground(
    rng: np.random.Generator, inland: np.ndarray, levels: tuple[float, float], difficulty: float
) -> tuple[np.ndarray, np.ndarray]:
    """The image of the ground, float32[h, w, 3], and its classes, uint8[h, w]."""
    height, width = inland.shape
    water_end, grass_start = levels
    stuff = (inland >= water_end).astype(np.uint8) + (inland >= grass_start)
    shore, lawn = inland - np.float32(water_end), inland - np.float32(grass_start)

    colors = np.array([s.albedo for s in STUFF], np.float32)
    colors += rng.normal(0, 0.02 + 0.04 * difficulty, (3, 3)).astype(np.float32)
    colors += (colors.mean(axis=0) - colors) * np.float32(0.35 * difficulty)

    coarse = noise(rng, height, width, 0.16, detail=3)
    grain = noise(rng, height, width, 0.016)
    blades = noise(rng, height, width, 0.012, stretch=3)
    dry = np.maximum(shore, 0)
    waves = np.sin(shore * 75 + coarse * 1.8)
    dunes = np.sin(lawn * 110 + coarse * 2.5)
    foam = np.exp(-np.square((shore + 0.012 + 0.006 * coarse) / 0.008)) * (shore < 0)
    water = 0.09 * waves * np.abs(waves) + 0.03 * coarse - 0.6 * np.clip(-1.2 * shore, 0, 0.45)
    sand = 0.05 * grain + 0.035 * coarse + 0.03 * dunes - 0.16 * np.exp(-28 * dry) * (shore > 0)
    grass = 0.13 * blades + 0.07 * coarse

    pixel = np.float32(0.7 * min(height, width))  # edges are a pixel or two soft
    land, green = np.clip(0.5 + shore * pixel, 0, 1), np.clip(0.5 + lawn * pixel, 0, 1)
    relief = water + (sand - water) * land
    relief += (grass - relief) * green
    image = colors[0] + (colors[1] - colors[0]) * land[..., None]
    image += (colors[2] - image) * green[..., None]
    image *= (1 + relief)[..., None]
    image += (0.75 * foam)[..., None]
    return image, stuff
