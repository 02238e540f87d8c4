"""What `predict` costs beside the bare model: the same images, batches and weights, decoded already, nothing written.

    python benchmarks/predict.py [--rounds 7] [--images 256] [--part 64] [--size 256] [--formats coco overlay]
        [--device cpu] [--package results/train | --model panoptic_deeplab --encoder resnet18]

One worker, as `stages.predict` has them: it reads, decodes (in a process beside it), predicts, encodes, writes and
commits. Rounds of both take turns; ratios are those of neighbours, of wall time.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--part", type=int, default=64)
    parser.add_argument("--package", type=Path, help="a trained model")
    parser.add_argument("--model", default="panoptic_deeplab")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--formats", nargs="+", default=["coco", "overlay"])
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def packaged(folder: Path, asked: argparse.Namespace) -> Path:
    """As drawn: what it finds costs as much to write as what a trained one does, or more."""
    from pipelines import config
    from pipelines.data.formats import shapes
    from pipelines.inference import package
    from pipelines.pixels import Pixels

    raw = config.read(ROOT / "params.yaml")["model"]
    section = {**raw, "name": asked.model, "encoder": asked.encoder, "weights": "none"}
    task, classes = config.MODEL_TASKS[asked.model], shapes.classes()
    pixels = Pixels.of([0.5] * 3, [0.25] * 3)
    about = {
        "task": task,
        "model": section,
        "classes": [{"name": c.name, "color": list(c.color), "isthing": c.isthing} for c in classes],
        "mean": pixels.mean,
        "std": pixels.std,
        "dataset": {"name": "shapes", "hash": ""},
        "epoch": 0,
    }
    package.save(folder, package.build(task, section, classes, pixels), about)
    return folder


def drawn(folder: Path, count: int, size: int) -> list[Any]:
    from pipelines.data.formats import shapes
    from pipelines.loading.batch import decode

    folder.mkdir()
    images = []
    for i in range(count):
        record = shapes.draw("test", i, seed=0, height=size, width=size, difficulty=0.5)
        (folder / f"{i:06}.png").write_bytes(record.image)
        images.append(decode(record))
    return images


def main() -> None:
    asked = arguments()
    from pipelines import environment, files
    from pipelines.prediction import sources
    from pipelines.prediction.work import Job, Options, Predicting

    environment.prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = drawn(folder / "images", asked.images, asked.size)
        found = tuple(sources.find([str(folder / "images")]).sources)
        options = Options(
            package=asked.package or packaged(folder / "package", asked),
            out=folder / "out",
            formats=tuple(asked.formats),
            batch_size=asked.batch,
            decoders=1,
            device=asked.device,
            part=asked.part,
            min_score=0.3,
            alpha=0.5,
            max_pixels=1 << 26,
            frame_step=1,
        )
        task = Predicting(options)
        jobs = [Job(f"{at:06}", found[at : at + asked.part]) for at in range(0, len(found), asked.part)]
        batches = [images[at : at + asked.batch] for at in range(0, len(images), asked.batch)]

        def ours() -> None:
            for job in jobs:
                task(job)

        def bare() -> None:
            for batch in batches:
                task.predictor.predict(batch)

        ours(), bare()  # what is done once
        seconds: dict[str, list[float]] = {"bare": [], "predict": []}
        for _ in range(asked.rounds):
            for kind, run in (("bare", bare), ("predict", ours)):
                files.remove(options.out)
                started = time.perf_counter()
                run()
                seconds[kind].append(time.perf_counter() - started)
        task.close()
    ratios = [b / p for b, p in zip(seconds["bare"], seconds["predict"], strict=True)]
    for kind, taken in seconds.items():
        print(f"{kind:8} {asked.images / statistics.median(taken):8.1f} images/s")
    print(f"ratio    {statistics.median(ratios):8.3f}  (rounds {min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
