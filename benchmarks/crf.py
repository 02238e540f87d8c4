"""The fully connected CRF: what its filters cost in time, and in marginals that brute force would give.

    python benchmarks/crf.py [--data CAMVID] [--images 3] [--largest 96x128]

On shapes or, with `--data`, on the images that a folder's `val.txt` lists with their masks, cut from the middle; with
probabilities as a network's: the truth at an eighth of the size, disturbed, scaled up, and disturbed again. Brute force
sums over all pairs in float64. Times are of one core, medians over images, with all preparation.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines.data.formats import shapes
from pipelines.models import crf, gaussian_filter
from pipelines.models.gaussian_filter import GaussianFilter, bilateral
from pipelines.models.permutohedral import Lattice

Pair = tuple[np.ndarray, np.ndarray]  # uint8[h, w, 3], class ids uint8[h, w]
SIZES = [(24, 32), (64, 64), (96, 128), (192, 256), (360, 480)]
CLASSES = 11
OPTIONS = {
    "model.crf": {"bilateral_weight": 5.0, "bilateral_sigma": 50.0, "color_sigma": 13.0},
    "evaluate.inference.crf": {"bilateral_weight": 4.0, "bilateral_sigma": 49.0, "color_sigma": 5.0},
}
SMOOTH: dict[str, Any] = {"iterations": 10, "spatial_weight": 3.0, "spatial_sigma": 3.0}


def lattice(image: Tensor, *, position_sigma: float, color_sigma: float, exact_below: int) -> GaussianFilter:
    """Over places and colours at once: what the reference implementation takes, for comparison."""
    size = image.shape[-2:]
    places = gaussian_filter.positions(size, like=image) / position_sigma
    return Lattice(torch.cat([places, image.flatten(1).T / color_sigma], dim=1))


FILTERS: dict[str, Callable[..., GaussianFilter]] = {"ours": bilateral, "one lattice": lattice}


def brute_force(probabilities: Tensor, image: Tensor, options: dict[str, float]) -> Tensor:
    """[c, h, w], [3, h, w] -> float64[c, h, w]"""
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in image.shape[-2:]))
    colors = image.double().flatten(1).T / options["color_sigma"]
    near = places / SMOOTH["spatial_sigma"]
    alike = torch.cat([places / options["bilateral_sigma"], colors], dim=1)
    heard = options["bilateral_weight"] * _kernel(alike)
    heard += SMOOTH["spatial_weight"] * _kernel(near)
    unary = probabilities.double().flatten(1).T.log()
    q = unary.softmax(dim=1)
    for _ in range(SMOOTH["iterations"]):
        q = (unary + heard @ q).softmax(dim=1)
    return q.T.reshape(probabilities.shape)


def _kernel(at: Tensor) -> Tensor:
    between = torch.cdist(at, at, compute_mode="donot_use_mm_for_euclid_dist").square_().div_(-2).exp_()
    scale = between.sum(dim=1).rsqrt()
    return between.mul_(scale).mul_(scale[:, None])


def example(pair: Pair, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Probabilities[c, h, w] and image[3, h, w] of the middle."""
    top, left = ((whole - part) // 2 for whole, part in zip(pair[1].shape, (height, width), strict=True))
    image, labels = (torch.from_numpy(x[top : top + height, left : left + width]) for x in pair)
    generator = torch.Generator().manual_seed(0)
    truth = F.one_hot(labels.long().clamp(max=CLASSES - 1), CLASSES).permute(2, 0, 1)[None].float()
    coarse = 4 * F.interpolate(truth, scale_factor=1 / 8, mode="area")
    coarse += torch.randn(coarse.shape, generator=generator)
    logits = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    logits += 0.5 * torch.randn(logits.shape, generator=generator)
    return logits.softmax(dim=0), image.permute(2, 0, 1).contiguous()


def table(pairs: list[Pair], largest: int) -> str:
    lines = [
        "| parameters | size | filter | seconds | max dQ | mean dQ | same label |",
        "|---|---|---|---|---|---|---|",
    ]
    for section, options in OPTIONS.items():
        for height, width in SIZES:
            examples = [example(pair, height, width) for pair in pairs]
            compared = height * width <= largest
            wanted = [brute_force(*e, options) if compared else None for e in examples]
            for name, build in FILTERS.items():
                crf.bilateral = build
                lines.append(f"| {section} | {height}x{width} | {name} | {_row(examples, wanted, options)} |")
                print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def _row(examples: list[tuple[Tensor, Tensor]], wanted: list[Tensor | None], options: dict[str, float]) -> str:
    times, errors, same = [], [], []
    for (given, image), truth in zip(examples, wanted, strict=True):
        started = time.process_time()
        found = crf.refine(given[None], image[None], **SMOOTH, **options)[0]
        times.append(time.process_time() - started)
        if truth is not None:
            errors.append((found - truth).abs())
            same.append((found.argmax(dim=0) == truth.argmax(dim=0)).float())
    seconds = f"{statistics.median(times):.2f}"
    if not errors:
        return f"{seconds} | | |"
    error = torch.stack(errors)
    return f"{seconds} | {error.max():.1e} | {error.mean():.1e} | {100 * torch.stack(same).mean():.2f}%"


def drawn(count: int) -> list[Pair]:
    plan = shapes.plan(splits={"train": count, "val": 0, "test": 0})
    made = [shapes.draw(*item, seed=0, height=360, width=480, difficulty=0.3) for item in plan]
    return [(record.pixels, record.semantic) for record in made if record.pixels is not None]


def listed(data: Path, count: int) -> list[Pair]:
    lines = [line.split() for line in (data / "val.txt").read_text().splitlines() if line.strip()]
    chosen = lines[:: max(1, len(lines) // count)][:count]
    return [
        (
            cv2.cvtColor(cv2.imread(str(data / image)), cv2.COLOR_BGR2RGB),
            cv2.imread(str(data / mask), cv2.IMREAD_UNCHANGED),
        )
        for image, mask in chosen
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with val.txt")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--largest", default="96x128", help="up to this size brute force is taken")
    options = parser.parse_args()
    torch.set_num_threads(1)
    height, width = map(int, options.largest.split("x"))
    pairs = listed(options.data, options.images) if options.data else drawn(options.images)
    print(f"\n{options.images} images, {CLASSES} classes, {SMOOTH['iterations']} iterations\n")
    print(table(pairs, height * width))


if __name__ == "__main__":
    main()
