"""What happens around a stage's own work, seen from outside: files and exit codes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from pipelines import config

ROOT = Path(__file__).resolve().parents[1]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from pipelines import stage
from pipelines.errors import DataError, RunError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


def run(params, paths):
    (paths.out / "model").mkdir()
    (paths.out / "model" / "weights").write_text(sys.argv[1])
    (paths.out / "history.csv").write_text(sys.argv[1])
    {work}
    return {{"epochs": 3}}

stage.main("train", run)
"""
OLD = {"history.csv": "old", "model/weights": "old", "model/stale": "old", "notes.txt": "old"}
NEW = {"history.csv": "new", "model/weights": "new", "notes.txt": "old"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project's folder with the outputs of an earlier run."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    for name, text in OLD.items():
        path = tmp_path / "results" / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.fixture
def start(project: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """start(work) -> a process that runs a stage with this line of work in it."""
    started: list[subprocess.Popen[str]] = []

    def launch(work: str, text: str = "new", **env: str) -> subprocess.Popen[str]:
        script = project / f"stage{len(started)}.py"
        script.write_text(SCRIPT.format(work=work))
        process = subprocess.Popen(
            [sys.executable, str(script), text],
            cwd=project,
            env={**environ(), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield launch
    for process in started:
        process.kill()
        process.communicate()


def environ() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "DVC_STAGE"} | {"PYTHONPATH": str(ROOT)}


def outputs(project: Path) -> dict[str, str]:
    final = project / "results" / "train"
    return {str(p.relative_to(final)): p.read_text() for p in sorted(final.rglob("*")) if p.is_file()}


def beside(project: Path) -> list[str]:
    return sorted(p.name for p in (project / "results").iterdir() if p.name != ".train.lock")


def wait_for(condition: Callable[[], Any], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.02)


def test_outputs_appear_whole_and_only_after_success(project, start):
    process = start("Path('working').touch()\n    while not Path('go').exists(): time.sleep(0.02)")
    wait_for((project / "working").exists)
    assert outputs(project) == OLD
    (project / "go").touch()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert outputs(project) == NEW, "what the stage wrote is replaced whole, the rest stays"
    assert beside(project) == ["train"]
    assert out.startswith("train: epochs 3  (0:0")


FAILURES = {
    "wrong input": (
        "raise DataError('2 faults', ['a', 'b'], do='mend')",
        2,
        "train: 2 faults\n  - a\n  - b\ndo: mend\n",
    ),
    "failed run": ("raise RunError('a worker was lost')", 1, "train: a worker was lost\n"),
    "bug": ("1 / 0", 1, "ZeroDivisionError: division by zero\ntrain: failed; this is a bug in"),
    "interrupt": ("os.kill(os.getpid(), signal.SIGINT); time.sleep(60)", 130, "train: interrupted; results/train is"),
    "termination": (
        "os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)",
        143,
        "train: interrupted; results/train is",
    ),
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES.keys())
def test_a_stage_that_does_not_end_well_leaves_what_was_there(project, start, failure):
    work, code, said = failure
    process = start(work)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert said in err
    assert ("Traceback" in err) == (work == FAILURES["bug"][0])
    assert outputs(project) == OLD
    assert beside(project) == ["train"]


def test_what_a_killed_run_left_is_swept_by_the_next(project, start):
    process = start("(paths.out / 'torn').touch(); os.kill(os.getpid(), 9)", "torn")
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert outputs(project) == OLD
    assert (project / "results" / ".train" / "torn").exists()
    assert start("pass").wait(timeout=60) == 0
    assert outputs(project) == NEW
    assert beside(project) == ["train"]


def test_a_second_run_waits_for_the_first(project, start):
    first = start("Path('working').touch()\n    while not Path('go').exists(): time.sleep(0.02)", "first")
    wait_for((project / "working").exists)
    second = start("assert (paths.of('train') / 'history.csv').read_text() == 'first'", "second")
    assert second.stderr is not None
    assert second.stderr.readline() == "train: waiting for another run of this stage to end\n"
    assert (first.poll(), second.poll()) == (None, None)
    (project / "go").touch()
    assert (first.wait(timeout=60), second.wait(timeout=60)) == (0, 0)
    assert outputs(project)["history.csv"] == "second"


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_stage_ends_when_the_dvc_above_it_dies(project):
    """DVC leaves its stages running, and a second repro beside one would mix their outputs."""
    (project / "stage.py").write_text(SCRIPT.format(work="Path('pid').write_text(str(os.getpid())); time.sleep(120)"))
    dvc = f"import subprocess, sys; subprocess.run([sys.executable, {str(project / 'stage.py')!r}, 'new'])"
    parent = subprocess.Popen([sys.executable, "-c", dvc], cwd=project, env={**environ(), "DVC_STAGE": "train"})
    wait_for(lambda: (project / "pid").exists() and (project / "pid").read_text())
    pid = int((project / "pid").read_text())
    assert not gone(pid)
    parent.kill()
    parent.wait()
    wait_for(lambda: gone(pid))
    assert outputs(project) == OLD
    assert beside(project) == ["train"]


ASKED = {"predict": ["image.png"], "rollback": ["--why", "a test"]}  # what cannot be left out


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_refuses_wrong_parameters_at_once(stage, project):
    raw = config.merge(config.read(ROOT / "params.yaml"), {"train.epoch": 3, "model.name": "unnet", "seed": -1})
    (project / "params.yaml").write_text(yaml.safe_dump(raw))
    command = [sys.executable, "-m", f"stages.{stage}", *ASKED.get(stage, [])]
    with (project / "said").open("w") as said:
        process = subprocess.Popen(command, cwd=project, env=environ(), stderr=said)
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 2
    text = (project / "said").read_text()
    assert text.startswith(f"{stage}: params.yaml: 3 faults\n")
    assert "Traceback" not in text
    assert used.ru_utime + used.ru_stime < 2
    assert outputs(project) == OLD
