"""Loading: images on disk to normalised batches, ours beside its peers.

    uv pip install --no-deps --target /tmp/peers -r benchmarks/peers.txt
    python benchmarks/loading.py --peers /tmp/peers [--data CAMVID] [--format png] [--rounds 5]

All do the same work with two worker processes: decode image and mask, random scale 0.5-2, pad, crop to 320, flip,
colour jitter, normalise, batches of 8 as float32 images and int64 masks. Peers do it with Albumentations, as their
users do; ours leaves the loader as bytes, and the normalisation of the training loop follows here and counts. Each
measurement is a process of its own; contenders take turns, and the medians count. CPU time is that of the whole
process tree.

Without `--data` the images are shapes of 480x360, drawn here; with it, a folder with `train.txt`: a line for each image
and its mask. What a peer writes goes into a temporary folder, which is also its home and its place for temporary files:
one of them empties folders of fixed names there.
"""

import argparse
import importlib.util
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

CROP, SCALE, FLIP, COLOUR = (320, 320), (0.5, 2.0), 0.5, 0.3
MEAN, STD = (0.41, 0.43, 0.43), (0.30, 0.31, 0.30)
BATCH, WORKERS = 8, 2
WARM, SHARDS = 40, 4  # batches before the clock starts; files of the formats that are read file by file

Pair = tuple[Path, Path]
Batches = Iterator[Any]


# ---------------------------------------------------------------- the work


class Work:
    """What peers do with a pair of encoded files."""

    def __init__(self) -> None:
        import albumentations as A
        import cv2
        from albumentations.pytorch import ToTensorV2

        cv2.setNumThreads(1)
        self.transform = A.Compose(
            [
                A.RandomScale((SCALE[0] - 1, SCALE[1] - 1), mask_interpolation=cv2.INTER_NEAREST_EXACT, p=1),
                A.PadIfNeeded(*CROP, border_mode=cv2.BORDER_CONSTANT, fill=0, fill_mask=255, position="random"),
                A.RandomCrop(*CROP),
                A.HorizontalFlip(p=FLIP),
                A.ColorJitter(COLOUR, COLOUR, COLOUR, COLOUR / 4, p=0.8),
                A.Normalize(MEAN, STD),
                ToTensorV2(),
            ]
        )

    def arrays(self, image: Any, mask: Any) -> tuple[Any, Any]:
        out = self.transform(image=image, mask=mask)
        return out["image"], out["mask"].long()

    def __call__(self, image: bytes, mask: bytes) -> tuple[Any, Any]:
        import cv2
        import numpy as np

        pixels = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR_RGB)
        return self.arrays(pixels, cv2.imdecode(np.frombuffer(mask, np.uint8), cv2.IMREAD_UNCHANGED))


def pairs_of(data: Path) -> list[Pair]:
    lines = (line.split() for line in (data / "train.txt").read_text().splitlines() if line.strip())
    return [(data / image, data / mask) for image, mask in lines]


def torch_loader(dataset: Any, **options: Any) -> Batches:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        dataset, batch_size=BATCH, num_workers=WORKERS, persistent_workers=True, drop_last=True, **options
    )
    while True:
        yield from loader


# ---------------------------------------------------------------- ours


def prepare_ours(pairs: list[Pair], out: Path, storage: Any) -> None:
    import cv2

    from pipelines.data import shards
    from pipelines.data.schema import ClassInfo, Record

    def records() -> Iterator[Record]:
        for number, (image, mask) in enumerate(pairs):
            semantic = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
            yield Record(
                id=str(number),
                split="train",
                image=image.read_bytes(),
                format="png" if image.suffix == ".png" else "jpeg",
                height=semantic.shape[0],
                width=semantic.shape[1],
                semantic=semantic,
            )

    classes = [ClassInfo(name=str(i), color=(i, i, i), isthing=False) for i in range(255)]
    shards.write(
        records(), classes=classes, name="benchmark", format="folder", out=out, rows_per_shard=256, storage=storage
    )


def run_ours(pairs: list[Pair], out: Path) -> Batches:
    from pipelines.data.shards import ShardReader
    from pipelines.loading.augment import Augment
    from pipelines.loading.loader import training_loader
    from pipelines.loading.sampler import GlobalBatches
    from pipelines.pixels import Pixels

    reader = ShardReader(out, "train")
    batches = GlobalBatches(len(reader), batch_size=BATCH, seed=0)
    augment = Augment(crop=CROP, scale=SCALE, flip=FLIP, color=COLOUR)
    loader = training_loader(reader, augment, batches=batches, stride=32, workers=WORKERS)
    pixels = Pixels.of(MEAN, STD)
    for epoch in itertools.count():
        batches.epoch = epoch
        for batch in loader:
            yield pixels.normalise(batch.images), batch.targets.semantic


# ---------------------------------------------------------------- peers


class Folder:
    def __init__(self, pairs: list[Pair], pil: bool):
        self.pairs, self.pil, self.work = pairs, pil, Work()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        image, mask = self.pairs[i]
        if not self.pil:
            return self.work(image.read_bytes(), mask.read_bytes())
        import numpy as np
        from PIL import Image

        return self.work.arrays(np.array(Image.open(image).convert("RGB")), np.array(Image.open(mask)))


def run_folder(pairs: list[Pair], out: Path, pil: bool) -> Batches:
    return torch_loader(Folder(pairs, pil), shuffle=True)


def prepare_webdataset(pairs: list[Pair], out: Path) -> None:
    import webdataset

    for shard in range(SHARDS):
        with webdataset.TarWriter(str(out / f"{shard}.tar")) as tar:
            for number, (image, mask) in list(enumerate(pairs))[shard::SHARDS]:
                tar.write({"__key__": f"{number:06}", "image": image.read_bytes(), "mask": mask.read_bytes()})


def run_webdataset(pairs: list[Pair], out: Path) -> Batches:
    import webdataset

    work = Work()
    dataset = (
        webdataset.WebDataset(sorted(map(str, out.glob("*.tar"))), shardshuffle=SHARDS)
        .shuffle(100)
        .to_tuple("image", "mask")
        .map(lambda files: work(*files))
    )
    return torch_loader(dataset)


def _litdata_item(pair: Pair) -> dict[str, bytes]:
    return {"image": pair[0].read_bytes(), "mask": pair[1].read_bytes()}


def prepare_litdata(pairs: list[Pair], out: Path) -> None:
    import litdata

    litdata.optimize(fn=_litdata_item, inputs=pairs, output_dir=str(out / "data"), num_workers=1, chunk_bytes="16MB")


def run_litdata(pairs: list[Pair], out: Path) -> Batches:
    import litdata

    work = Work()

    class Dataset(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Any, Any]:
            item = super().__getitem__(index)
            return work(item["image"], item["mask"])

    loader = litdata.StreamingDataLoader(
        Dataset(str(out / "data"), shuffle=True, drop_last=True),
        batch_size=BATCH,
        num_workers=WORKERS,
        persistent_workers=True,
        drop_last=True,
    )
    while True:
        yield from loader


def prepare_streaming(pairs: list[Pair], out: Path) -> None:
    import streaming

    columns = {"image": "bytes", "mask": "bytes"}
    with streaming.MDSWriter(out=str(out / "data"), columns=columns, size_limit=16 << 20) as writer:
        for pair in pairs:
            writer.write(_litdata_item(pair))


def run_streaming(pairs: list[Pair], out: Path) -> Batches:
    import streaming

    work = Work()

    class Dataset(streaming.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[Any, Any]:
            item = super().__getitem__(index)
            return work(item["image"], item["mask"])

    return torch_loader(Dataset(local=str(out / "data"), shuffle=True, batch_size=BATCH))


def prepare_datasets(pairs: list[Pair], out: Path) -> None:
    import datasets

    items = [_litdata_item(pair) for pair in pairs]
    features = datasets.Features({"image": datasets.Value("binary"), "mask": datasets.Value("binary")})
    datasets.Dataset.from_list(items, features=features).save_to_disk(str(out / "data"))


def run_datasets(pairs: list[Pair], out: Path) -> Batches:
    import datasets

    work = Work()

    def transform(rows: dict[str, list[bytes]]) -> dict[str, list[Any]]:
        done = [work(*files) for files in zip(rows["image"], rows["mask"], strict=True)]
        return {"image": [image for image, _ in done], "mask": [mask for _, mask in done]}

    return torch_loader(datasets.load_from_disk(str(out / "data")).with_transform(transform), shuffle=True)


def run_ray(pairs: list[Pair], out: Path) -> Batches:
    import logging

    import ray

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    masks = {str(image): mask for image, mask in pairs}

    class Transform:
        def __init__(self) -> None:
            self.work = Work()

        def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
            import cv2

            mask = cv2.imread(str(masks["/" + row["path"].lstrip("/")]), cv2.IMREAD_UNCHANGED)
            image, semantic = self.work.arrays(row["image"], mask)
            return {"image": image.numpy(), "mask": semantic.numpy()}

    for epoch in itertools.count():
        paths = [str(image) for image, _ in pairs] * 8  # an epoch's start costs it seconds
        files = ray.data.read_images(paths, include_paths=True, mode="RGB", shuffle="files")
        done = files.map(Transform, concurrency=1)  # a CPU for it, and one for those who read
        yield from done.iter_torch_batches(batch_size=BATCH, drop_last=True, local_shuffle_seed=epoch)


# name -> (module that must be there, what writes its files, what reads them without end)
CONTENDERS: dict[str, tuple[str, Callable[..., None] | None, Callable[..., Batches]]] = {
    "ours, encoded": ("torch", partial(prepare_ours, storage="encoded"), run_ours),
    "ours, decoded": ("torch", partial(prepare_ours, storage="decoded"), run_ours),
    "folder, DataLoader, cv2": ("torch", None, partial(run_folder, pil=False)),
    "folder, DataLoader, PIL": ("torch", None, partial(run_folder, pil=True)),
    "webdataset": ("webdataset", prepare_webdataset, run_webdataset),
    "litdata": ("litdata", prepare_litdata, run_litdata),
    "mosaicml-streaming": ("streaming", prepare_streaming, run_streaming),
    "Hugging Face datasets": ("datasets", prepare_datasets, run_datasets),
    "Ray Data read_images": ("ray", None, run_ray),
}


# ---------------------------------------------------------------- measuring


def tree_cpu() -> float:
    """Seconds of this process, of its children, theirs, and those that they have waited for."""
    import psutil

    total, me = 0.0, psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def measure(name: str, data: Path, out: Path, batches: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    stream = CONTENDERS[name][2](pairs_of(data), out)
    for batch in itertools.islice(stream, WARM):
        check(batch)
    cpu, clock = tree_cpu(), time.perf_counter()
    for _ in itertools.islice(stream, batches):
        pass
    wall, samples = time.perf_counter() - clock, batches * BATCH
    return {"cpu": (tree_cpu() - cpu) / samples * 1e3, "wall": wall / samples * 1e3}


def check(batch: Any) -> None:
    """That it is the same work."""
    import torch

    images, masks = (batch["image"], batch["mask"]) if isinstance(batch, dict) else batch
    assert (tuple(images.shape), images.dtype) == ((BATCH, 3, *CROP), torch.float32), (images.shape, images.dtype)
    assert (tuple(masks.shape), masks.dtype) == ((BATCH, *CROP), torch.int64), (masks.shape, masks.dtype)


def draw(folder: Path, count: int, suffix: str) -> None:
    """Shapes as files, listed as CamVid lists its own."""
    import cv2

    from pipelines.data.formats import shapes
    from pipelines.data.statistics import decode

    lines = []
    for item in shapes.plan(splits={"train": count, "val": 0, "test": 0}):
        record = shapes.draw(*item, seed=0, height=360, width=480, difficulty=0.3)
        name = f"{len(lines):05}"
        cv2.imwrite(str(folder / f"{name}{suffix}"), decode(record)[..., ::-1])
        cv2.imwrite(str(folder / f"{name}_mask.png"), record.semantic)
        lines.append(f"{name}{suffix} {name}_mask.png")
    (folder / "train.txt").write_text("\n".join(lines))


def child(arguments: list[str], peers: str, home: Path) -> subprocess.CompletedProcess[str]:
    """This file again; what it writes beside its output stays under `home`. Ours comes first on the path."""
    private = {"TMPDIR": home, "HOME": home, "HF_HOME": home, "DATA_OPTIMIZER_CACHE_FOLDER": home / "lit"}
    environment = {**os.environ, **{k: str(v) for k, v in private.items()}, "RAY_TMPDIR": "/tmp"}  # noqa: S108 - sockets need short paths
    environment |= {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    command = [sys.executable, __file__, "--peers", peers, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def table(found: dict[str, dict[str, list[float]] | str]) -> str:
    medians = {
        name: {kind: statistics.median(values) for kind, values in runs.items()}
        for name, runs in found.items()
        if isinstance(runs, dict)
    }
    best = {k: min(m[k] for name, m in medians.items() if not name.startswith("ours")) for k in ("cpu", "wall")}
    lines = [
        "| loader | speed by CPU | by wall | CPU ms per sample | wall ms per sample |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found.items():
        if name in medians:
            m = medians[name]
            ratios = f"{best['cpu'] / m['cpu']:.2f} | {best['wall'] / m['wall']:.2f}"
            lines.append(f"| {name} | {ratios} | {m['cpu']:.2f} | {m['wall']:.2f} |")
        else:
            lines.append(f"| {name} | {runs} | | | |")
    return "\n".join([*lines, "", "Speeds are relative to the best peer, of which each column may have another."])


def compare(data: Path, home: Path, options: argparse.Namespace) -> dict[str, dict[str, list[float]] | str]:
    found: dict[str, dict[str, list[float]] | str] = {}
    for name, (module, prepare, _) in CONTENDERS.items():
        if options.only and name not in options.only:
            continue
        out = home / name.replace(" ", "-")
        out.mkdir()
        if importlib.util.find_spec(module) is None:
            found[name] = "not installed"
            continue
        found[name] = {"cpu": [], "wall": []}
        if prepare is not None:
            done = child(["--prepare", name, "--data", str(data), "--out", str(out)], options.peers, home)
            if done.returncode:
                found[name] = f"fails: {done.stderr.strip().splitlines()[-1][:100]}"
    for _ in range(options.rounds):
        for name, runs in found.items():
            if isinstance(runs, str):
                continue
            out = home / name.replace(" ", "-")
            arguments = ["--run", name, "--data", str(data), "--out", str(out), "--batches", str(options.batches)]
            try:
                done = child(arguments, options.peers, home)
                result = json.loads(done.stdout.strip().splitlines()[-1])
            except (IndexError, ValueError, subprocess.TimeoutExpired) as error:
                said = done.stderr.strip().splitlines() if not isinstance(error, subprocess.TimeoutExpired) else []
                found[name] = f"fails: {said[-1][:100] if said else error!r}"
                continue
            for kind, value in result.items():
                runs[kind].append(value)
            print(f"{name:26} CPU {result['cpu']:6.2f} ms, wall {result['wall']:6.2f} ms per sample", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.txt; default: shapes are drawn")
    parser.add_argument("--format", choices=("jpeg", "png"), default="jpeg", help="of the images that are drawn")
    parser.add_argument("--peers", default="", help="the folder that benchmarks/peers.txt is installed in")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=80, help="that are measured, per round and contender")
    parser.add_argument("--only", nargs="*", help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", help=argparse.SUPPRESS)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peers:
        sys.path.append(options.peers)  # behind ours: our versions win
    if options.prepare:
        CONTENDERS[options.prepare][1](pairs_of(options.data), options.out)  # type: ignore[misc]
    elif options.run:
        print(json.dumps(measure(options.run, options.data, options.out, options.batches)), flush=True)
        if "ray" in sys.modules:
            sys.modules["ray"].shutdown()
        os._exit(0)  # some of them end only after minutes
    else:
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            data = options.data
            if data is None:
                data = home / "shapes"
                data.mkdir()
                draw(data, 256, ".jpg" if options.format == "jpeg" else ".png")
            print(table(compare(data.resolve(), home, options)))


if __name__ == "__main__":
    main()
