"""The whole story over HTTP: an MLflow server of its own with a database, and several machines' worth of processes."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import environment, files
from tests.registry.line import REPOSITORY, Line, begun, raw, verdict

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
environment.prepare()
# A process that meets another one where both have decided, and neither has claimed its place.
RACER = """
import sys, time
from pathlib import Path
from pipelines import stage
from pipelines.registry.audit import Audit
from stages import register
mine, theirs = map(Path, sys.argv[1:3])
claim = Audit.claim
def at_once(self, entry, number):
    Audit.claim = claim
    mine.touch()
    while not theirs.exists():
        time.sleep(0.01)
    return claim(self, entry, number)
Audit.claim = at_once
stage.main("register", register.run)
"""


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`mlflow server` on loopback, which keeps artifacts too: nothing is shared but the address."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(1200):
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.25)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, 15)
        process.wait()


@pytest.fixture
def line(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Line:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "120")  # a busy machine is not a failure
    return begun(tmp_path / "project", request.node.name)


def test_the_story(line: Line) -> None:
    assert verdict(line.add(1, 0.5)) == (1, True, "first champion", {"champion": 1})
    worse = line.add(2, 0.4)
    assert verdict(worse) == (2, False, "gain", {"champion": 1, "challenger": 2})
    assert "a gain of -0.1, not more than min_gain 0" in worse["decision"]["reason"]
    assert verdict(line.add(3, 0.6)) == (3, True, "gain", {"champion": 3})
    assert verdict(line.add(4, 0.6)) == (4, False, "not significant", {"champion": 3, "challenger": 4})
    line.ingest(1)
    again = line.add(5, 0.9)
    assert verdict(again) == (5, True, "gain", {"champion": 5})
    assert (again["champion"]["version"], again["champion"]["how"]) == (3, "measured again")
    line.rollback("misses poles at night")
    assert line.aliases() == {"champion": 3, "challenger": 5}
    assert verdict(line.register()) == (5, False, "rolled back", {"champion": 3, "challenger": 5})
    page = line.page()
    told = [
        "first champion", "a gain of -0.1", "a gain of +0.1", "not significant", "more than min_gain", "misses poles",
        "was rolled back on",
    ]  # fmt: skip
    assert [page.rfind(each) > 0 for each in told] == [True] * len(told)
    assert re.findall(r'class="badge">([a-z ]+)<', page) == [
        "refused", "rolled back", "promoted", "refused", "promoted", "refused", "promoted",
    ]  # fmt: skip
    downloaded = line.server.download_artifacts(again["audit"], "audit.html", str(line.root))
    assert Path(downloaded).read_text() == page


def test_of_two_registrations_one_wins_and_the_other_decides_again(line: Line, tmp_path: Path) -> None:
    """Two processes, two folders, one server."""
    line.add(1, 0.5)
    racers = []
    for number, miou in ((2, 0.6), (3, 0.7)):
        root = tmp_path / f"racer{number}"
        shutil.copytree(line.root, root)
        racer = Line(root, line.name)
        racer.train(number)
        racer.measure(miou)
        files.write_yaml(root / "params.yaml", raw(line.name))
        racers.append(root)
    meeting = [tmp_path / "a", tmp_path / "b"]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, *map(str, order)],
            cwd=root, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for root, order in zip(racers, (meeting, meeting[::-1]), strict=True)
    ]  # fmt: skip
    said = [process.communicate(timeout=1500)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    best = next(n for n, v in line.versions().items() if v.tags["maskline.reason"].startswith("semantic.miou 0.7"))
    assert line.aliases()["champion"] == best  # whoever came first: the better one holds it in the end
    first, *others = line.decisions()[1:]
    assert first.before == 1
    assert first.what == "promoted"
    (second,) = others  # decided again, against the first
    assert second.before == first.after == first.version
    assert second.what == ("promoted" if second.version == best else "refused")
