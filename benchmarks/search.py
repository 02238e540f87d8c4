"""A sweep of 16 short trials on two cores, killed twice: are the cores busy, and is every trial accounted for?

    python benchmarks/search.py [--trials 16] [--epochs 2] [--scheduler asha] [--kills 2]

Busy is the share of two cores' time that this machine was not idle, from the sweep's first result to its last, the
starts of Ray after a kill left out. Run it on a machine that does nothing else.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from pipelines import config
from pipelines.training.search.record import Journal, Record


def project(root: Path, changes: dict[str, object]) -> None:
    raw = config.merge(config.read(ROOT / "params.yaml"), changes)
    (root / "params.yaml").write_text(yaml.safe_dump(raw))
    for stage in ("ingest", "validate"):
        subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=root, env=environment(), check=True)


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def records(root: Path) -> list[Record]:
    return [r for state in (root / "runs").glob("tune-*") for r in Journal(state / "journal").read().values()]


def epochs(root: Path) -> int:
    return sum(record.epochs for record in records(root))


def sweep(root: Path, until: int | None) -> tuple[float, float]:
    """Run the stage, to its end or to a number of epochs; (busy, total) core seconds from its first result on."""
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.tune"], cwd=root, env=environment(), start_new_session=True
    )
    before, first, last = epochs(root), None, None
    seen = before
    while process.poll() is None and (until is None or seen < until):
        if (now := epochs(root)) > seen:
            seen, last = now, psutil.cpu_times()
            first = first or last
        time.sleep(0.1)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if first is None or last is None:
        return 0.0, 0.0
    total = sum(last[:8]) - sum(first[:8])
    return total - (last.idle - first.idle) - (last.iowait - first.iowait), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--scheduler", default="asha")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        size = {"dataset.splits": {"train": 240, "val": 24, "test": 8}}
        settings = {"trials": chosen.trials, "epochs": chosen.epochs, "scheduler": chosen.scheduler, "concurrent": 2}
        project(root, {**size, **{f"tune.{name}": value for name, value in settings.items()}})
        most, busy, total = chosen.trials * chosen.epochs, 0.0, 0.0
        for stop in [most * (i + 1) // (chosen.kills + 2) for i in range(chosen.kills)] + [None]:
            more, of = sweep(root, stop)
            busy, total = busy + more, total + of
            counts = f"{len(records(root))} trials, {epochs(root)} epochs" if stop else "to its end"
            print(f"{'killed after' if stop else 'ran'} {counts}", flush=True)
        rows = (root / "results" / "tune" / "trials.csv").read_text().splitlines()
        print(
            f"accounted for: {len(rows) - 1} of {chosen.trials} trials; busy {busy / max(total, 1e-9):.0%} of all cores"
        )


if __name__ == "__main__":
    main()
