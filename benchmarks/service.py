"""The service under load, on loopback: the highest rate that it holds, and how long its answers take then.

    python benchmarks/service.py [--requests 1000] [--package results/train | --model panoptic_deeplab --encoder ...]
        [--size 128] [--replicas 1] [--device cpu]

A closed loop: so many clients, each of which asks again as soon as it is answered. Their number is doubled as long as
the rate grows by a twentieth; then that many ask `--requests` times. Every answer is compared with the first one to its
image: none may be lost, and none may be another's.
"""

import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.predict import drawn, packaged

TRIED, MOST = 100, 32  # requests for each number of clients; clients
GAIN = 1.05
ROUNDING = 1e-5  # of a score


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--package", type=Path, help="a trained model")
    parser.add_argument("--model", default="panoptic_deeplab")
    parser.add_argument("--encoder", default="test_resnet.r160_in1k")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


class Load:
    """Clients that ask for the images in turns."""

    def __init__(self, port: int, images: Sequence[bytes]):
        self.port, self.images = port, images
        self.expected: dict[int, bytes] = {}
        self.lock = threading.Lock()

    def run(self, clients: int, requests: int) -> tuple[float, list[float], Counter[str]]:
        """Requests per second, seconds of each, and what became of them."""
        turns = iter(range(requests))
        seconds: list[float] = []
        outcomes: Counter[str] = Counter()

        def client() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
            while True:
                with self.lock:
                    turn = next(turns, None)
                if turn is None:
                    return connection.close()
                started = time.perf_counter()
                outcome = self._ask(connection, turn % len(self.images))
                taken = time.perf_counter() - started
                with self.lock:
                    seconds.append(taken)
                    outcomes[outcome] += 1

        threads = [threading.Thread(target=client) for _ in range(clients)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return requests / (time.perf_counter() - started), seconds, outcomes

    def _ask(self, connection: http.client.HTTPConnection, number: int) -> str:
        try:
            connection.request("POST", "/predict", self.images[number])
            answer = connection.getresponse()
            content = answer.read()
        except OSError as error:
            connection.close()
            return f"lost: {type(error).__name__}"
        if answer.status != 200:
            return str(answer.status)
        with self.lock:
            same = alike(self.expected.setdefault(number, content), content)
        return "answered" if same else "answered differently"


def alike(one: bytes, other: bytes) -> bool:
    """The same classes and masks, with the same scores but for what a batch's size rounds otherwise."""
    first, second = json.loads(one), json.loads(other)
    scores = [[segment.pop("score") for segment in answer["segments"]] for answer in (first, second)]
    return bool(first == second and all(abs(a - b) < ROUNDING for a, b in zip(*scores, strict=True)))


def serve(folder: Path, package: Path, asked: argparse.Namespace) -> tuple[subprocess.Popen[str], int]:
    from pipelines import config, files

    raw = config.merge(config.read(ROOT / "params.yaml"), {"serve.port": 0})
    files.write_yaml(folder / "params.yaml", raw)
    command = [sys.executable, "-m", "stages.serve", "--model", str(package.resolve())]
    command += ["--device", asked.device, "--replicas", str(asked.replicas)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    found = re.search(r"on http://127\.0\.0\.1:(\d+) ", process.stdout.readline())
    assert found, "the service did not start"
    return process, int(found[1])


def main() -> None:
    asked = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        drawn(folder / "images", 16, asked.size)
        images = [path.read_bytes() for path in sorted((folder / "images").iterdir())]
        process, port = serve(folder, asked.package or packaged(folder / "package", asked), asked)
        try:
            load = Load(port, images)
            load.run(1, len(images))
            clients, best = 1, load.run(1, TRIED)[0]
            print(f"clients {clients:3}  {best:7.1f} requests/s", flush=True)
            while clients < MOST:
                rate, _, _ = load.run(2 * clients, TRIED)
                print(f"clients {2 * clients:3}  {rate:7.1f} requests/s", flush=True)
                if rate < GAIN * best:
                    break
                clients, best = 2 * clients, rate
            rate, seconds, outcomes = load.run(clients, asked.requests)
        finally:
            process.terminate()
            said, _ = process.communicate()
    quantiles = statistics.quantiles(seconds, n=100)
    listed = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    print(f"{asked.requests} requests by {clients} clients: {listed}; {rate:.1f} requests/s")
    print("milliseconds: " + "  ".join(f"p{p} {1000 * quantiles[p - 1]:.0f}" for p in (50, 95, 99)), end="")
    print(f"  longest {1000 * max(seconds):.0f}")
    print(said.strip())


if __name__ == "__main__":
    main()
