"""What each semantic network costs as its paper has it: parameters, operations, time and memory for one image.

    python benchmarks/latency.py --size 192 256 --rounds 3

Untrained, on 11 classes, one thread; the rounds of all are interleaved. Ratios hold, milliseconds are this machine's.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines import config, environment

environment.prepare()

REAL_TIME = ("bisenet", "ddrnet23_slim", "lraspp")


def packages(folder: Path) -> dict[str, Path]:
    from pipelines.data.schema import ClassInfo
    from pipelines.inference import package
    from pipelines.pixels import Pixels

    section = config.read(ROOT / "params.yaml")["model"]
    classes = tuple(ClassInfo(name=str(i), color=(i, i, i), isthing=False) for i in range(11))
    about = {
        "task": "semantic",
        "classes": [{"name": c.name, "color": c.color, "isthing": False} for c in classes],
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    made = {}
    for name, task in config.MODEL_TASKS.items():
        if task == "semantic" and name not in config.CLASSICAL:
            model = {**section, "name": name, "encoder": "paper", "channels": None, "weights": "none"}
            built = package.build(task, model, classes, Pixels.of(about["mean"], about["std"]))
            package.save(folder / name, built, {**about, "model": model})
            made[name] = folder / name
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(192, 256), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from pipelines.leaderboard.measure import costs

    with tempfile.TemporaryDirectory() as folder:
        found = costs(packages(Path(folder)), tuple(arguments.size), rounds=arguments.rounds)
    fastest = min(cost.seconds for cost in found.values())
    print(f"one image of {arguments.size[0]}x{arguments.size[1]}")
    print("| model | M parameters | GFLOPs | ms | times the fastest | MiB |\n|---|---|---|---|---|---|")
    for name, cost in sorted(found.items(), key=lambda item: item[1].seconds):
        cells = (
            name,
            f"{cost.parameters / 1e6:.2f}",
            f"{cost.operations / 1e9:.1f}",
            f"{cost.seconds * 1e3:.0f}",
            f"{cost.seconds / fastest:.1f}",
            f"{cost.memory / 2**20:.0f}",
        )
        print(f"| {' | '.join(cells)} |")
    slow = [name for name in found if name not in REAL_TIME]
    print(
        "real-time models faster than all others:",
        max(found[n].seconds for n in REAL_TIME) < min(found[n].seconds for n in slow),
    )


if __name__ == "__main__":
    main()
