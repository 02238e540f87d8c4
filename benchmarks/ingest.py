"""Ingest beside the converters of other data formats: images per second of processor time, and of the clock.

    python benchmarks/ingest.py [--data DIR] [--images N] [--rounds N] [--peers DIR]

Every contender turns the same pairs of image and mask into its own format, in one process on one core. Two kinds of
work are measured, because they are not the same promise:

- *copied*: the published bytes go into the container unseen. What is broken is found in training, or never.
- *checked*: every file is decoded to its last byte, every value of every mask is counted, the channels' sums are taken
  (what normalisation and validation need), and then the published bytes go into the container. Ours always does this,
  and hashes what it writes.

`--data` is a folder with images/ and masks/ (or train/ and trainannot/); without it, drawn scenes as JPEG of 480x360.
`--peers` is a folder of installed packages (benchmarks/peers.txt); a peer that is not there is said so.
"""

import argparse
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Pair = tuple[str, bytes, bytes]


def pairs(folder: Path) -> Iterator[Pair]:
    for image in sorted((folder / "images").iterdir()):
        mask = folder / "masks" / f"{image.stem}.png"
        yield image.stem, image.read_bytes(), mask.read_bytes()


def checked(pair: Pair) -> Pair:
    """The work that ours cannot leave out, done as one would by hand."""
    import numpy as np
    from PIL import Image

    image = np.asarray(Image.open(io.BytesIO(pair[1])).convert("RGB"))
    np.bincount(np.asarray(Image.open(io.BytesIO(pair[2]))).ravel(), minlength=256)
    image.mean((0, 1)), image.std((0, 1))
    return pair


def ours(folder: Path, out: Path, look: Callable[[Pair], Pair]) -> None:
    from pipelines.data.formats.source import Source
    from pipelines.data.ingest.run import ingest
    from pipelines.data.tree import Tree

    done = ingest(
        format="folder",
        source=Source(tree=Tree(str(folder)), splits={"train": 1, "val": 0, "test": 0}),
        out=out,
        state=out / "state",
        workers=1,
        rows_per_shard=256,
        stratify=False,
    )
    assert done.manifest is not None, done.report.refusal("", "")


def webdataset(folder: Path, out: Path, look: Callable[[Pair], Pair]) -> None:
    import webdataset

    with webdataset.ShardWriter(str(out / "%05d.tar"), maxcount=256, verbose=0) as sink:
        for key, image, mask in map(look, pairs(folder)):
            sink.write({"__key__": key, "jpg": image, "png": mask})


def mosaicml_streaming(folder: Path, out: Path, look: Callable[[Pair], Pair]) -> None:
    from streaming import MDSWriter

    columns = {"key": "str", "image": "bytes", "mask": "bytes"}
    with MDSWriter(out=str(out / "mds"), columns=columns, hashes=["sha1"]) as sink:
        for key, image, mask in map(look, pairs(folder)):
            sink.write({"key": key, "image": image, "mask": mask})


def litdata(folder: Path, out: Path, look: Callable[[Pair], Pair]) -> None:
    from litdata.streaming.cache import Cache

    cache = Cache(str(out / "lit"), chunk_bytes="64MB")
    for i, (key, image, mask) in enumerate(map(look, pairs(folder))):
        cache[i] = {"key": key, "image": image, "mask": mask}
    cache.done()
    cache.merge()


def hugging_face(folder: Path, out: Path, look: Callable[[Pair], Pair]) -> None:
    import datasets

    datasets.disable_progress_bars()
    rows = datasets.Dataset.from_generator(
        lambda: ({"key": k, "image": i, "mask": m} for k, i, m in map(look, pairs(folder))),
        cache_dir=str(out / "cache"),
    )
    rows.save_to_disk(str(out / "hf"))


def parquet(folder: Path, out: Path, look: Callable[[Pair], Pair]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"key": k, "image": i, "mask": m} for k, i, m in map(look, pairs(folder))]
    pq.write_table(pa.Table.from_pylist(rows), out / "rows.parquet")


CONTENDERS = {
    "Maskline": (ours, ("checked",)),
    "webdataset": (webdataset, ("checked", "copied")),
    "mosaicml-streaming": (mosaicml_streaming, ("checked", "copied")),
    "litdata": (litdata, ("checked", "copied")),
    "Hugging Face datasets": (hugging_face, ("checked", "copied")),
    "Parquet (pyarrow)": (parquet, ("checked", "copied")),
}


def measured(name: str, kind: str, folder: Path, peers: Path | None) -> tuple[float, float] | None:
    """Seconds of processor and of clock for the conversion alone, in a fresh process on one core."""
    path = os.pathsep.join([str(ROOT), *([str(peers)] if peers else [])])
    private = tempfile.mkdtemp()  # some clear fixed folders below the temporary one
    run = subprocess.run(
        [sys.executable, __file__, "--one", name, kind, str(folder)],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": private, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
    )
    if run.returncode:
        said = run.stderr.strip().splitlines()[-1]
        print(f"{name}: {'not installed' if 'ModuleNotFoundError' in said else said}", file=sys.stderr)
        return None
    processor, clock = run.stdout.split()[-2:]
    return float(processor), float(clock)


def one(name: str, kind: str, folder: Path) -> None:
    convert = CONTENDERS[name][0]
    look: Callable[[Pair], Pair] = checked if kind == "checked" else lambda pair: pair
    with tempfile.TemporaryDirectory() as out:
        warm = Path(out) / "warm"
        warm.mkdir()
        small = Path(out) / "small"
        copy_some(folder, small, 4)  # what is imported on first use is no conversion
        convert(small, warm, look)
        final = Path(out) / "out"
        final.mkdir()
        started, before = time.perf_counter(), used()
        convert(folder, final, look)
        print(used() - before, time.perf_counter() - started)


def used() -> float:
    return sum(
        getattr(resource.getrusage(who), field)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for field in ("ru_utime", "ru_stime")
    )


def copy_some(folder: Path, to: Path, images: int) -> None:
    for kind in ("images", "masks"):
        (to / kind).mkdir(parents=True)
        for path in sorted((folder / kind).iterdir())[:images]:
            (to / kind / path.name).write_bytes(path.read_bytes())
    (to / "classes.yaml").write_bytes((folder / "classes.yaml").read_bytes())


def lay_out(data: Path | None, images: int, to: Path) -> None:
    """The pairs as the format `folder` has them: real ones, or drawn."""
    for kind in ("images", "masks"):
        (to / kind).mkdir(parents=True)
    (to / "classes.yaml").write_text("".join(f"- {{name: class {i}}}\n" for i in range(255)))
    if data:
        first, second = ("images", "masks") if (data / "images").is_dir() else ("train", "trainannot")
        for path in sorted((data / first).iterdir())[:images]:
            (to / "images" / path.name).write_bytes(path.read_bytes())
            (to / "masks" / f"{path.stem}.png").write_bytes((data / second / f"{path.stem}.png").read_bytes())
        return
    import cv2
    from PIL import Image

    from pipelines.data.formats import shapes

    for i in range(images):
        record = shapes.draw("train", i, seed=0, height=360, width=480, difficulty=0.5)
        assert record.pixels is not None
        cv2.imwrite(str(to / f"images/{i:05}.jpg"), record.pixels[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, 95))
        Image.fromarray(record.semantic).save(to / f"masks/{i:05}.png")


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3], Path(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path)
    options = parser.parse_args()
    rows = [(name, kind) for name, (_, kinds) in CONTENDERS.items() for kind in kinds]
    times: dict[tuple[str, str], list[tuple[float, float]]] = {row: [] for row in rows}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        lay_out(options.data, options.images, source)
        images = len(list((source / "images").iterdir()))
        absent: set[str] = set()
        for _ in range(options.rounds):
            for row in rows:  # interleaved: a busy machine slows all alike
                if row[0] not in absent and (found := measured(*row, source, options.peers)):
                    times[row].append(found)
                elif not times[row]:
                    absent.add(row[0])
    base = statistics.median(cpu for cpu, _ in times["Maskline", "checked"])
    print(f"\n{images} pairs, medians of {options.rounds} interleaved rounds, one core\n")
    print("| contender | work | images/s (clock) | images/s (processor) | of Maskline |\n|---|---|---|---|---|")
    for (name, kind), found in times.items():
        if not found:
            print(f"| {name} | {kind} | not installed | | |")
            continue
        cpu, clock = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"| {name} | {kind} | {images / clock:.0f} | {images / cpu:.0f} | {base / cpu:.2f} |")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
