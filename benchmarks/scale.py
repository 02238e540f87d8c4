"""From a thousand images to a hundred million: what starting to load them takes, in time and in memory.

    python benchmarks/scale.py [--rows 1000 10000] [--most 8]

The manifests are real ones, of as many shards as so many images have; every one of their shards is the same small file
here, so that no disk is filled. Each row is measured in a process of its own: reading the manifest, the first batch of
a shuffled epoch, a batch in its midst, the memory that all this took, and what a shard costs that is open: a shuffled
epoch opens them all. The last column is what a shuffled list of all images would take.
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines.data import shards
from pipelines.data.schema import ClassInfo, Record
from pipelines.data.statistics import Statistics
from pipelines.loading.sampler import GlobalBatches

BATCH = 64
CLASSES = [ClassInfo(name="all", color=(0, 0, 0), isthing=False)]


def small_shard(folder: Path, rows: int) -> Any:
    """A folder with one shard of so many tiny images; returns its line of the manifest."""
    pixels, semantic = bytes(8 * 8 * 3), np.zeros((8, 8), np.uint8)
    records = (
        Record(id=str(i), split="train", image=pixels, format="raw", height=8, width=8, semantic=semantic)
        for i in range(rows)
    )
    made = shards.write(records, classes=CLASSES, name="scale", format="shapes", out=folder, rows_per_shard=rows)
    return made.shards[0]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def measure(folder: Path) -> dict[str, float]:
    """In this process, which has done nothing else."""
    before = psutil.Process().memory_info().rss
    reader, start = timed(lambda: shards.ShardReader(folder, "train"))
    reading = psutil.Process().memory_info().rss - before
    batches = GlobalBatches(len(reader), batch_size=BATCH, seed=0)
    first, first_batch = timed(lambda: next(iter(batches)))
    _, midst = timed(lambda: next(batches.starting(len(batches) // 2)))
    shuffling = psutil.Process().memory_info().rss - before - reading
    _, record = timed(lambda: reader[first[0][1]])
    sent = len(pickle.dumps(reader))
    process, rows = psutil.Process(), reader.manifest.shards[0].rows
    memory, files, more = (
        process.memory_full_info().uss,
        process.num_fds(),
        range(rows, min(len(reader), 200 * rows), rows),
    )
    for index in more:
        _ = reader[index]
    memory, files = process.memory_full_info().uss - memory, process.num_fds() - files
    return {
        "images": len(reader),
        "shards": len(reader.manifest.shards),
        "manifest MB": (folder / "dataset.json").stat().st_size / 1e6,
        "reader, s": start,
        "first batch, ms": first_batch * 1e3,
        "batch in the midst, ms": midst * 1e3,
        "first record, ms": record * 1e3,
        "memory of the reader, MB": reading / 1e6,
        "of the order, MB": shuffling / 1e6,
        "sent to a worker, MB": sent / 1e6,
        "an open shard, kB": memory / max(len(more), 1) / 1e3,
        "its files": files / max(len(more), 1),
        "a list instead, MB": len(reader) * 8 / 1e6,
    }


def rows_of(images: int, per_shard: int, home: Path) -> dict[str, float]:
    folder = home / f"{images}-{per_shard}"
    info = small_shard(folder, min(images, per_shard))
    infos = [replace(info) for _ in range(max(1, images // per_shard))]
    statistics = Statistics(images={"train": images, "val": 0, "test": 0})
    shards.write_manifest(folder, infos, statistics, classes=CLASSES, name="scale", format="shapes")
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(folder)], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 10000], help="per shard")
    parser.add_argument("--most", type=int, default=8, help="images, as a power of ten")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as name:
        for per_shard in options.rows:
            print(f"\n{per_shard} images per shard, batches of {BATCH}\n")
            for power in range(3, options.most + 1):
                found = rows_of(10**power, per_shard, Path(name))
                if power == 3:
                    print("| " + " | ".join(found) + " |\n" + "|---" * len(found) + "|")
                print(
                    "| " + " | ".join(f"{value:,.1f}".removesuffix(".0") for value in found.values()) + " |", flush=True
                )


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
