"""From `python -m stages.train` to the first training step: where the time goes, and what of it is our own code.

    python benchmarks/startup.py [rounds]

Starts the stage on a small dataset in a temporary folder, reads the marks that it leaves in its event log, and ends it
after its first step. Ours is the span that our code fills, and our modules' own share of the imports and of reading
the parameters (`-X importtime`, and the clock); the rest is what Python, Ray and torch need.
"""

import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from pipelines import config

# The mark that ends each span, whose time it is, and what happens in it.
SPANS = (
    ("parameters read", "Python, pydantic", "the interpreter, the parameters, the manifest, hashes"),
    ("Ray started", "Ray", "import ray, ray.init"),
    ("workers started", "Ray", "import ray.train, the worker group"),
    ("libraries imported", "torch, timm, ...", "the imports of a worker"),
    ("model and data ready", "ours", "shards opened and verified, the model built and wrapped"),
    ("first step done", "torch", "the first batch, forward, backward, update"),
)
SMALL = {"dataset.splits": {"train": 64, "val": 8, "test": 8}, "train.epochs": 1}
ENV = {**os.environ, "PYTHONPATH": str(ROOT)}


def project(folder: Path) -> None:
    """Parameters and a dataset, as `ingest` and `tune` leave them."""
    raw = config.merge(config.read(ROOT / "params.yaml"), SMALL)
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    (folder / "results" / "tune").mkdir(parents=True)
    (folder / "results" / "tune" / "best.yaml").write_text("{}\n")
    subprocess.run([sys.executable, "-m", "stages.ingest"], cwd=folder, env=ENV, check=True, capture_output=True)


def spans(folder: Path) -> list[float]:
    """Seconds of each span: a mark counts when the slowest worker has passed it."""
    with (folder / "log").open("w") as log:
        started = time.time()
        stage = subprocess.Popen([sys.executable, "-m", "stages.train"], cwd=folder, env=ENV, stdout=log, stderr=log)
        passed: dict[str, float] = {}
        while SPANS[-1][0] not in passed:
            if stage.poll() is not None:
                sys.exit((folder / "log").read_text())
            time.sleep(0.1)
            for events in folder.glob("runs/train-*/events.jsonl"):
                lines = [json.loads(line) for line in events.read_text().splitlines() if line.endswith("}")]
                passed = {e["name"]: e["time"] for e in lines if e["kind"] == "mark"}
        stage.send_signal(signal.SIGTERM)
        stage.wait()
    for events in folder.glob("runs/train-*/events.jsonl"):
        events.unlink()
    at = [started, *(passed[name] for name, _, _ in SPANS)]
    return [end - start for start, end in itertools.pairwise(at)]


def own_imports() -> float:
    """Seconds that our modules take to import, without what they import."""
    code = "import stages.train, pipelines.training.distributed, pipelines.training.loop, pipelines.training.result"
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], env=ENV, check=True, capture_output=True, text=True
    )
    rows = re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+((?:pipelines|stages)\S*)", said.stderr)
    return sum(int(microseconds) for microseconds, _ in rows) / 1e6


def own_parameters(folder: Path) -> float:
    """Seconds to read the parameters and take the fingerprint, imports apart."""
    code = (
        "import time; from pathlib import Path; from pipelines import config\n"
        "from pipelines.training.fingerprint import fingerprint\n"
        "from pipelines.data.shards import read_manifest\n"
        "start = time.perf_counter()\n"
        "raw = config.read(Path('params.yaml')); config.parse(raw); config.parse(raw)\n"
        "fingerprint(raw, read_manifest(Path('results/ingest')).hash); print(time.perf_counter() - start)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=ENV, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project(folder)
        spans(folder)  # fills the file cache
        measured = [(spans(folder), own_imports(), own_parameters(folder)) for _ in range(rounds)]
    median = [statistics.median(times) for times in zip(*(m[0] for m in measured), strict=True)]
    imports, parameters = (statistics.median(m[i] for m in measured) for i in (1, 2))
    print(f"start of training, medians of {rounds} rounds, seconds")
    for (_, owner, what), seconds in zip(SPANS, median, strict=True):
        print(f"{seconds:8.2f}  {owner:18} {what}")
    print(f"{sum(median):8.2f}  all")
    ours = median[4] + imports + parameters
    print(
        f"{ours:8.2f}  ours: {median[4]:.2f} shards and model, {imports:.2f} own modules, {parameters:.2f} parameters"
    )


if __name__ == "__main__":
    main()
