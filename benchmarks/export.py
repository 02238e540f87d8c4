"""What exporting costs and keeps: each model trained briefly on `shapes`, exported, and held against its exports.

    python benchmarks/export.py [--models lraspp solov2 ...] [--images 128] [--epochs 8] [--size 96] [--out table.md]

Metrics are those of the split that was held out, by the evaluator of the stage `evaluate`. Times are of the network
alone, on one image of twice the size and one thread: processor time, medians of rounds in which the three take turns.
Where eight bits after training lose more than `export.max_loss`, the model is trained again for them
(`model.quantize`), from the same seed, for as long.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines import config, environment

environment.prepare()

MODELS = (
    "unet", "deeplabv3plus", "lraspp", "bisenet",
    "polarmask", "solov2", "mask_rcnn", "blendmask",
    "panoptic_deeplab", "panoptic_fpn",
)  # fmt: skip
HEADS = (
    "model",
    "task",
    "metric",
    "torch",
    "ONNX",
    "apart",
    "int8",
    "apart",
    "ONNX, times as fast",
    "int8, times as fast",
    "int8, of ONNX's size",
)


def dataset(out: Path, images: int, size: int) -> Path:
    from pipelines.data import shards
    from pipelines.data.formats import shapes

    splits = {"train": images, "val": max(8, images // 8), "test": max(16, images // 4)}
    drawn = (shapes.draw(*item, seed=0, height=size, width=size, difficulty=0.3) for item in shapes.plan(splits=splits))
    shards.write(drawn, classes=shapes.classes(), name="shapes", format="shapes", out=out, rows_per_shard=256)
    return out


def trained(name: str, data: Path, state: Path, changes: dict[str, Any]) -> Path:
    """A package, by the parameters of the repository but for these."""
    from pipelines.training import result
    from pipelines.training.job import Group, Job
    from pipelines.training.loop import fit

    fixed = {"task": config.MODEL_TASKS[name], "model.name": name, "train.workers": 1, "train.device": "cpu"}
    raw = config.merge(config.read(ROOT / "params.yaml"), {**fixed, **changes})
    job = Job(params=config.parse(raw), data=data, state=state)
    fit(job, Group())
    result.write(job, raw=raw, fingerprint="benchmark")
    return state / result.RESULT


def measured(name: str, source: Path, data: Path, out: Path) -> dict[str, Any]:
    """As the stage `export` measures, whatever it would say of it."""
    from pipelines.exporting import cost
    from pipelines.exporting.run import Settings, export
    from pipelines.inference import package

    raw = config.read(ROOT / "params.yaml")["export"]
    everything = {**raw, "max_loss": {"float32": np.inf, "int8": np.inf}}
    sides: dict[str, Any] = export(source, data, out, Settings(**everything))["sides"]
    folders = {side: source if side == "torch" else out / side for side in sides}
    predictors = {side: package.load(folder) for side, folder in folders.items()}
    for side, times in cost.latencies(predictors, picture(data), rounds=raw["rounds"]).items():
        sides[side] |= times
    return sides


def picture(data: Path) -> np.ndarray:
    from pipelines.data.shards import ShardReader
    from pipelines.loading.batch import decode

    return np.tile(decode(ShardReader(data, "test")[0]), (2, 2, 1))


def row(name: str, metric: str, sides: dict[str, Any], task: str) -> str:
    """One line of the table; a model that was trained for int8 has no float32 export."""
    torch, onnx, int8 = sides["torch"], sides.get("float32"), sides["int8"]

    def apart(side: dict[str, Any]) -> str:
        return f"{side[metric] - torch[metric]:+.4f}"

    def faster(side: dict[str, Any]) -> str:
        return f"{torch['network_ms'] / side['network_ms']:.2f}"

    cells = [
        name, task, metric.split(".")[1], f"{torch[metric]:.4f}",
        *((f"{onnx[metric]:.4f}", apart(onnx)) if onnx else ("", "")),
        f"{int8[metric]:.4f}", apart(int8),
        faster(onnx) if onnx else "", faster(int8),
        f"{int8['file_bytes'] / onnx['file_bytes']:.2f}" if onnx else "",
    ]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=sorted(config.MODEL_TASKS))
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--out", type=Path, help="write the table here as well")
    options = parser.parse_args()
    brief = {
        "model.channels": 32,
        "train.epochs": options.epochs,
        "train.validation.every": options.epochs,
        "train.augment.crop": [options.size, options.size],
        **{f"model.{kind}.layers": 3 for kind in ("mask2former", "mask2former_instance", "mask2former_semantic")},
    }
    bound = config.read(ROOT / "params.yaml")["export"]["max_loss"]["int8"]
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    print(*lines, sep="\n", flush=True)

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        data = dataset(here / "data", options.images, options.size)
        for name in options.models:
            started, task = time.monotonic(), config.MODEL_TASKS[name]
            metric = f"{task}.{config.HEADLINE[task]}"
            source = trained(name, data, here / name, brief)
            sides = measured(name, source, data, here / f"{name}-export")
            say(row(name, metric, sides, task))
            if abs(sides["int8"][metric] - sides["torch"][metric]) > bound:
                source = trained(name, data, here / f"{name}-int8", {**brief, "model.quantize": True})
                sides = measured(name, source, data, here / f"{name}-int8-export")
                say(row(f"{name}, trained for int8", metric, sides, task))
            print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
