"""SIGKILL at random moments of every stage, again and again: does the line end in what it would have ended in?

    python benchmarks/kills.py [--kills 12] [--stages train] [--seed 0]

Each attempt at a stage is killed after a time drawn from zero to the longest that an attempt has taken, the whole group
of its processes or one of them alone; after `--in-a-row` kills it is left to end. What it wrote is then held, by hash,
against what an undisturbed line wrote.
"""

import argparse
import hashlib
import os
import random
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

SIZE = {
    "dataset.splits": {"train": 48, "val": 12, "test": 12},
    "tune.trials": 2,
    "tune.epochs": 1,
    "train.epochs": 6,
    "train.checkpoint_minutes": 0.02,
    "register.floors": {},
}
# What each stage leaves that is a function of its inputs alone.
RESULTS = {
    "ingest": ["dataset.json"],
    "validate": ["report.json", "balance.json"],
    "tune": ["best.yaml", "trials.csv"],
    "train": ["model.safetensors"],
    "evaluate": ["metrics.json"],
    "register": [],  # its version numbers and times are the registry's: that there is one version is looked at
}


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    hidden = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    return {k: v for k, v in os.environ.items() if k not in hidden} | {"PYTHONPATH": path}


def start(stage: str, root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"stages.{stage}"]
    return subprocess.Popen(
        command,
        cwd=root,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=(root / "said.txt").open("ab"),
        start_new_session=True,
    )


def hashes(root: Path, stage: str) -> dict[str, str]:
    folder = root / "results" / stage
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in RESULTS[stage]}


def finish(stage: str, root: Path) -> float:
    """Its seconds."""
    started = time.monotonic()
    if (code := start(stage, root).wait()) != 0:
        sys.exit(f"{stage} ended with {code}:\n{(root / 'said.txt').read_text()[-2000:]}")
    return time.monotonic() - started


def disturb(stage: str, root: Path, seconds: float, rng: random.Random) -> str:
    """One attempt that is killed; what was."""
    process = start(stage, root)
    deadline = time.monotonic() + rng.uniform(0, seconds)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    if process.poll() is not None:
        return "ended before"
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    alone = rng.random() < 0.5
    victim = rng.choice(family)
    try:
        name = f"{victim.name()} alone" if alone else "all of its processes"
        victim.kill() if alone else os.killpg(process.pid, signal.SIGKILL)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return "ended before"
    process.wait()  # one that lost a process alone may make up for it, or end with a word
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--in-a-row", type=int, default=3)
    parser.add_argument("--stages", nargs="+", default=list(RESULTS), choices=list(RESULTS))
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    rng = random.Random(chosen.seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "params.yaml").write_text(yaml.safe_dump(config.merge(config.read(ROOT / "params.yaml"), SIZE)))
        seconds = {stage: finish(stage, root) for stage in RESULTS}
        wanted = {stage: hashes(root, stage) for stage in RESULTS}
        print("undisturbed:", ", ".join(f"{stage} {each:.0f} s" for stage, each in seconds.items()), flush=True)
        kills = wrong = 0
        while kills < chosen.kills:
            for stage in chosen.stages:
                for leftover in (*(root / "runs").glob(f"{stage}-*"), root / "results" / stage):
                    subprocess.run(["rm", "-rf", str(leftover)], check=True)
                done = [disturb(stage, root, seconds[stage], rng) for _ in range(chosen.in_a_row)]
                kills += sum(what != "ended before" for what in done)
                finish(stage, root)
                same = hashes(root, stage) == wanted[stage]
                wrong += not same
                print(f"{kills:4} kills  {stage:9} {'same' if same else 'OTHER'}  {'; '.join(done)}", flush=True)
        print(f"{kills} kills, {wrong} stages that ended in something else")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
