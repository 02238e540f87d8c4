"""The stage, with Ray Serve behind it."""

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import yaml

from pipelines import config
from pipelines.data import rle
from tests.packages import encode, lamp, lights

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
SCENES = {(48, 64): (10, 20, 30, 44), (40, 40): (4, 4, 20, 30), (64, 48): (30, 8, 60, 40)}


def project(folder: Path, changes: dict[str, Any]) -> Path:
    raw = config.merge(config.read(ROOT / "params.yaml"), {"serve.port": 0, "serve.device": "cpu", **changes})
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    for name in ("stages", "pipelines"):
        (folder / name).symlink_to(ROOT / name)
    return folder


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, str]]:
    folder = project(tmp_path_factory.mktemp("project"), {})
    package = lights(folder / "model")
    command = [sys.executable, "-m", "stages.serve", "--model", str(package)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"on (http://127\.0\.0\.1:\d+) ", line)
    assert found, line
    yield process, found[1]
    process.kill()
    process.wait()


def test_many_at_once_are_each_answered_their_own(serving: tuple[subprocess.Popen, str]) -> None:
    """Images of several sizes, which are predicted in whatever batches they meet."""
    _, url = serving

    def ask(number: int) -> bool:
        size, box = list(SCENES.items())[number % len(SCENES)]
        scene = lamp(*size, box)
        answer = requests.post(f"{url}/predict", data=encode(scene), timeout=120).json()
        mask = answer["segments"][1]["rle"]
        found = rle.decode(rle.from_string(mask["counts"], *mask["size"]), *mask["size"])
        return bool((found == (scene[..., 0] > 128)).all())

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(60)))


def test_it_listens_on_loopback_alone(serving: tuple[subprocess.Popen, str]) -> None:
    process, url = serving
    assert requests.get(f"{url}/readyz", timeout=120).json() == {"status": "ready"}
    family = {process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))}
    session = [p for p in psutil.process_iter(["name"]) if "ServeRepli" in (p.info["name"] or "")]
    assert session, "a replica is there to be looked at"
    family |= {p.pid for p in session if p.ppid() in family}
    addresses = {
        c.laddr.ip for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN and c.pid in family
    }
    assert {address.removeprefix("::ffff:") for address in addresses} <= {"127.0.0.1", "::1"}


def test_a_replica_that_dies_is_replaced(serving: tuple[subprocess.Popen, str]) -> None:
    process, url = serving
    mine = {child.pid for child in psutil.Process(process.pid).children(recursive=True)}
    for other in psutil.process_iter(["name"]):
        if "ServeRepli" in (other.info["name"] or "") and other.pid in mine:
            other.send_signal(signal.SIGKILL)
    data = encode(lamp(48, 64, (10, 20, 30, 44)))
    statuses = []
    while not statuses or statuses[-1] != 200:
        statuses.append(requests.post(f"{url}/predict", data=data, timeout=120).status_code)
        assert len(statuses) < 10_000
    assert set(statuses) <= {200, 503}, "told to come again, until it is there"


def test_sigterm_lets_it_finish(serving: tuple[subprocess.Popen, str]) -> None:
    process, url = serving
    data, answers = encode(lamp(48, 64, (10, 20, 30, 44))), []

    def ask() -> None:
        answers.append(requests.post(f"{url}/predict", data=data, timeout=120).status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    while "maskline_waiting 0" in requests.get(f"{url}/metrics", timeout=120).text and not answers:
        pass
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "serve: answered" in said
    assert 200 in answers
