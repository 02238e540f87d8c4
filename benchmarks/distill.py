"""What a teacher is worth: a small network trained on `shapes` alone, and for as long with a larger one's word.

    python benchmarks/distill.py [--student lraspp] [--teacher deeplabv3plus] [--images 160] [--epochs 10] [--seeds 3]

The teacher is wider and trained for three times as long. Scores are those of images that nobody has seen; each seed
trains the student twice, from the same weights.
"""

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines import config, environment

environment.prepare()

from benchmarks.export import dataset, trained

METRICS = {"semantic": "miou", "panoptic": "pq"}


def score(folder: Path, data: Path) -> float:
    from pipelines.data.shards import ShardReader
    from pipelines.evaluation.evaluator import evaluate
    from pipelines.inference import package

    predictor = package.load(folder)
    found = evaluate(predictor, ShardReader(data, "test"), batch_size=16)
    return float(found[predictor.task][METRICS[predictor.task]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--student", default="lraspp", choices=sorted(config.SOFT_TARGETS))
    parser.add_argument("--teacher", default="deeplabv3plus", choices=sorted(config.SOFT_TARGETS))
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    small = {
        "model.channels": 16,
        "train.epochs": options.epochs,
        "train.validation.every": options.epochs,
        "train.augment.crop": [options.size, options.size],
    }
    large = {"model.channels": 64, "train.epochs": 3 * options.epochs, "train.validation.every": 3 * options.epochs}
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        data = dataset(here / "data", options.images, options.size)
        teacher = trained(options.teacher, data, here / "teacher", {**small, **large})
        taught = {"train.distill.teacher": str(teacher)}
        print(f"teacher {options.teacher}: {score(teacher, data):.4f}\n")
        print(f"| seed | {options.student} alone | taught | gain |\n|---|---|---|---|", flush=True)
        for seed in range(options.seeds):
            scores = [
                score(
                    trained(options.student, data, here / f"{seed}-{len(more)}", {**small, "seed": seed, **more}), data
                )
                for more in ({}, taught)
            ]
            print(f"| {seed} | {scores[0]:.4f} | {scores[1]:.4f} | {scores[1] - scores[0]:+.4f} |", flush=True)


if __name__ == "__main__":
    main()
