"""What follows the network, beside the network: a panoptic prediction of 1024 x 1024 with 300 instances.

    python benchmarks/postprocessing.py [--rounds 3] [--size 1024] [--instances 300]

The papers' models (ResNet-50), untrained; what they would say of a scene of discs is written down instead of learned.
Medians of interleaved rounds, one thread.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines.data.prediction import Instances
from pipelines.models import MODELS
from pipelines.models.contract import Classes
from pipelines.models.panoptic import merging

CLASSES = Classes(things=tuple(range(8)), stuff=tuple(range(8, 19)))


def discs(count: int, size: int) -> Tensor:
    """int64[h, w]: 0, or 1 + the disc."""
    generator = np.random.default_rng(0)
    y, x = np.ogrid[:size, :size]
    ids = np.zeros((size, size), np.int64)
    for i in range(count):
        cy, cx, r = *generator.uniform(0, size, 2), generator.uniform(8, 40)
        ids[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = i + 1
    return torch.from_numpy(ids)


def centers(ids: Tensor, stride: int = 4) -> dict[str, Tensor]:
    """As Panoptic-DeepLab's heads would have the scene."""
    size = ids.shape[0] // stride
    coarse = ids[stride // 2 :: stride, stride // 2 :: stride]
    heatmap, offset = torch.zeros(size, size), torch.zeros(2, size, size)
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).float()
    for i in range(1, int(ids.max()) + 1):
        inside = coarse == i
        if inside.any():
            middle = grid[:, inside].mean(dim=1).round()
            heatmap[int(middle[0]), int(middle[1])] = 1 - 1e-4 * i
            offset[:, inside] = (middle[:, None] - grid[:, inside]) * stride
    semantic = torch.where(ids > 0, ids % 8, 8)
    logits = 10 * torch.nn.functional.one_hot(semantic, CLASSES.count).permute(2, 0, 1).float()
    return {"semantic": logits[None], "center": heatmap[None, None], "offset": offset[None]}


def detections(ids: Tensor) -> tuple[Instances, np.ndarray]:
    count = int(ids.max())
    masks = (ids[None] == torch.arange(1, count + 1)[:, None, None]).numpy()
    kept = masks[masks.any(axis=(1, 2))]
    labels, scores = np.arange(len(kept)) % 8, np.linspace(0.6, 1, len(kept), dtype=np.float32)
    boxes = np.zeros((len(kept), 4), np.float32)
    return Instances(masks=kept, labels=labels, scores=scores, boxes=boxes), np.full(ids.shape, 8, np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--instances", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    ids = discs(arguments.instances, arguments.size)
    size, image = (arguments.size,) * 2, torch.randn(1, 3, arguments.size, arguments.size)
    image = image.to(memory_format=torch.channels_last)
    models = {name: MODELS[name].build(classes=CLASSES).eval() for name in ("panoptic_deeplab", "panoptic_fpn")}
    models = {name: model.to(memory_format=torch.channels_last) for name, model in models.items()}
    outputs, (found, semantic) = centers(ids), detections(ids)
    jobs: dict[str, Callable[[], object]] = {
        "panoptic_deeplab, forward": lambda: models["panoptic_deeplab"](image),
        "panoptic_deeplab, predict": lambda: models["panoptic_deeplab"].predict(outputs, [size]),
        "panoptic_fpn, forward": lambda: models["panoptic_fpn"](image),
        "any two models, merge": lambda: merging.merge(found, semantic, stuff=CLASSES.stuff),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    with torch.inference_mode():
        (prediction,) = models["panoptic_deeplab"].predict(outputs, [size])
        for _ in range(arguments.rounds):
            for name, job in jobs.items():
                started = time.perf_counter()
                job()
                times[name].append(time.perf_counter() - started)
    print(f"{len(prediction.instances)} instances found at {size[0]}x{size[1]}, {len(found)} merged")
    for name, each in times.items():
        print(f"{name:28} {statistics.median(each):8.2f} s")


if __name__ == "__main__":
    main()
