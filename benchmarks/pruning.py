"""U-Net++ pruned: what each depth costs.

    python benchmarks/pruning.py [--encoder paper] [--channels 128] [--size 256] [--rounds 10] [--device cpu]

The same weights answer at each depth, and with the average of all. Depths take turns, and the medians count; FLOPs are
those of one image, a multiplication and an addition counted as two; parameters are those that an answer of that depth
uses.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pipelines.models.contract import Classes
from pipelines.models.encoders import Choice
from pipelines.models.semantic.unetplusplus import UNetPlusPlus

CLASSES = Classes(things=(1,), stuff=(0,))


def seconds(model: UNetPlusPlus, images: torch.Tensor) -> float:
    started = time.perf_counter()
    model(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def used(model: UNetPlusPlus, images: torch.Tensor) -> int:
    """Parameters that the answer depends on."""
    model.zero_grad()
    model(images)["semantic"].sum().backward()
    return sum(p.numel() for p in model.parameters() if p.grad is not None)


def flops(model: UNetPlusPlus, images: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="paper")
    parser.add_argument("--channels", type=int, default=128)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    images = torch.randn(1, 3, options.size, options.size, device=options.device)

    def build(output: str | int) -> UNetPlusPlus:
        built = UNetPlusPlus(classes=CLASSES, encoder=Choice(options.encoder), channels=options.channels, output=output)
        return built.eval().to(options.device)

    whole = build("average")
    models = {end: build(end) for end in whole.ends} | {"average": whole}
    for model in models.values():
        model.load_state_dict(whole.state_dict())
    sizes = {name: used(model, images) for name, model in models.items()}
    with torch.inference_mode():
        work = {name: flops(model, images) for name, model in models.items()}
        rounds = [{name: seconds(model, images) for name, model in models.items()} for _ in range(options.rounds + 1)]
    times = {name: statistics.median(one[name] for one in rounds[1:]) for name in models}

    print("| depth | parameters, million | GFLOP | ms per image | times as fast as the average |")
    print("|---|---|---|---|---|")
    for name in models:
        speed = times["average"] / times[name]
        row = (name, f"{sizes[name] / 1e6:.2f}", f"{work[name] / 1e9:.1f}", f"{1e3 * times[name]:.1f}", f"{speed:.2f}")
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
