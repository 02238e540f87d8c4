"""Codecs for semantic maps: bytes on disk, and the time to have the pixels again.

    python benchmarks/mask_codecs.py [--data CAMVID] [--rounds 5]

On shapes of 480x360 and, with `--data`, on the masks that a folder's `train.txt` lists. Medians over rounds in which
the codecs take turns; every codec gives back the same pixels, or this fails.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines.data.formats import shapes

MAPS = 60
Encode = Callable[[np.ndarray], bytes]
Decode = Callable[[bytes, tuple[int, int]], np.ndarray]


def arrow(name: str, level: int | None = None) -> tuple[Encode, Decode]:
    codec = pa.Codec(name, compression_level=level) if level is not None else pa.Codec(name)

    def decode(data: bytes, size: tuple[int, int]) -> np.ndarray:
        return np.frombuffer(codec.decompress(data, size[0] * size[1]), np.uint8).reshape(size)

    return lambda mask: codec.compress(mask.tobytes(), asbytes=True), decode


def png(level: int) -> tuple[Encode, Decode]:
    return (
        lambda mask: cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, level])[1].tobytes(),
        lambda data, size: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED),
    )


def runs(mask: np.ndarray) -> bytes:
    """Row by row: all lengths as uint16 (longer runs in parts), then all values."""
    flat = mask.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[0] ^ 1))
    lengths = np.diff(starts, append=flat.size)
    parts = -(-lengths // 65535)
    values = np.repeat(flat[starts], parts)
    pieces = np.full(values.size, 65535, np.uint16)
    pieces[np.cumsum(parts) - 1] = lengths - (parts - 1) * 65535
    return pieces.tobytes() + values.tobytes()


def from_runs(data: bytes, size: tuple[int, int]) -> np.ndarray:
    count = len(data) // 3
    lengths = np.frombuffer(data, np.uint16, count)
    return np.repeat(np.frombuffer(data, np.uint8, count, offset=2 * count), lengths).reshape(size)


CODECS: dict[str, tuple[Encode, Decode]] = {
    "raw": (lambda mask: mask.tobytes(), lambda data, size: np.frombuffer(data, np.uint8).reshape(size)),
    "lz4 (ours)": arrow("lz4"),
    "lz4 3": arrow("lz4", 3),
    "lz4 6": arrow("lz4", 6),
    "lz4 9": arrow("lz4", 9),
    "snappy": arrow("snappy"),
    "zstd 1": arrow("zstd", 1),
    "zstd 9": arrow("zstd", 9),
    "PNG 1": png(1),
    "PNG 9": png(9),
    "run lengths": (runs, from_runs),
}


def seconds(decode: Decode, data: list[bytes], masks: list[np.ndarray]) -> float:
    started = time.process_time()
    for encoded, mask in zip(data, masks, strict=True):
        decode(encoded, mask.shape).max()  # a view has to be read too
    return (time.process_time() - started) / len(masks)


def table(masks: list[np.ndarray], rounds: int) -> str:
    encoded, writing = {}, {}
    for name, (encode, _) in CODECS.items():
        started = time.process_time()
        encoded[name] = [encode(mask) for mask in masks]
        writing[name] = (time.process_time() - started) / len(masks) * 1e6
    for name, (_, decode) in CODECS.items():
        assert all((decode(d, m.shape) == m).all() for d, m in zip(encoded[name], masks, strict=True)), name
    times: dict[str, list[float]] = {name: [] for name in CODECS}
    for _ in range(rounds):
        for name, (_, decode) in CODECS.items():
            times[name].append(seconds(decode, encoded[name], masks))
    pixels = sum(mask.size for mask in masks)
    lines = ["| codec | bytes per map | part of raw | read, us per map | write, us per map |", "|---|---|---|---|---|"]
    for name in CODECS:
        size = sum(map(len, encoded[name]))
        micro = statistics.median(times[name]) * 1e6
        lines.append(f"| {name} | {size // len(masks)} | {size / pixels:.4f} | {micro:.0f} | {writing[name]:.0f} |")
    return "\n".join(lines)


def drawn() -> list[np.ndarray]:
    plan = shapes.plan(splits={"train": MAPS, "val": 0, "test": 0})
    return [shapes.draw(*item, seed=0, height=360, width=480, difficulty=0.3).semantic for item in plan]


def listed(data: Path) -> list[np.ndarray]:
    lines = [line.split() for line in (data / "train.txt").read_text().splitlines() if line.strip()]
    step = max(1, len(lines) // MAPS)
    return [cv2.imread(str(data / mask), cv2.IMREAD_UNCHANGED) for _, mask in lines[::step][:MAPS]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with train.txt")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    for name, masks in {
        "shapes": drawn(),
        **({options.data.name: listed(options.data)} if options.data else {}),
    }.items():
        height, width = masks[0].shape
        print(f"\n{name}, {len(masks)} maps of {width}x{height}, medians of {options.rounds} rounds\n")
        print(table(masks, options.rounds))


if __name__ == "__main__":
    main()
