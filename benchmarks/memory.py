"""The memory of an ingest: peak of the whole process tree, Ray included, at growing numbers of images.

    python benchmarks/memory.py [images ...]

Runs the stage on drawn images of 32x32 in a temporary folder, and samples the proportional set size (shared pages
counted once) of every process that it has started. The limit is 1.5 GiB at 200 000 images.
"""

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines import config

LIMIT = 1.5  # GiB
EVERY = 1.0  # seconds between samples


def peak(images: int, folder: Path) -> tuple[float, float, float]:
    """GiB at most of all processes, of the stage's own process, and the seconds it took."""
    sizes = {"dataset.splits": {"train": images, "val": 0, "test": 0}}
    drawn = {"dataset.shapes": {"height": 32, "width": 32, "difficulty": 0.1}}
    raw = config.merge(config.read(ROOT / "params.yaml"), {**sizes, **drawn})
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    started = time.monotonic()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    stage = subprocess.Popen([sys.executable, "-m", "stages.ingest"], cwd=folder, env=environment)
    most = own = 0.0
    while stage.poll() is None:
        time.sleep(EVERY)
        with suppress(psutil.Error):
            root = psutil.Process(stage.pid)
            mine = held(root)
            most = max(most, mine + sum(map(held, root.children(recursive=True))))
            own = max(own, mine)
    if stage.returncode:
        sys.exit(f"the stage ended with {stage.returncode}")
    return most, own, time.monotonic() - started


def held(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 2**30
    return 0.0


def main() -> None:
    counts = [int(n) for n in sys.argv[1:]] or [2_000, 20_000, 200_000]
    rows = []
    for images in counts:
        with tempfile.TemporaryDirectory() as folder:
            rows.append((images, *peak(images, Path(folder))))
    print("| images | peak of all processes, GiB | of the driver, GiB | seconds |\n|---|---|---|---|")
    for images, most, own, seconds in rows:
        print(f"| {images} | {most:.2f} | {own:.2f} | {seconds:.0f} |")
    sys.exit(max(most for _, most, *_ in rows) > LIMIT)


if __name__ == "__main__":
    main()
