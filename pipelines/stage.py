"""What every stage does around its own work: parameters, one writer at a time, whole outputs, exit codes."""

import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import config, environment, files
from pipelines.errors import MasklineError
from pipelines.progress import clock

Summary = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """Where a stage reads and writes."""

    root: Path  # the project's folder
    out: Path  # becomes results/<stage>/ when the stage has succeeded
    finished: list[Callable[[], None]] = field(default_factory=list)  # called when it has

    def of(self, stage: str) -> Path:
        """What another stage has written."""
        return self.root / "results" / stage

    @property
    def runs(self) -> Path:
        """State to resume from. Outside DVC's outputs: DVC deletes those before it runs a stage."""
        return self.root / "runs"


def main(name: str, run: Callable[[config.Params, Paths], Summary], *, called: str = "") -> None:
    """Run a stage of dvc.yaml, or what is `called` otherwise and writes where that stage does, and leave the process as
    `conclude` says."""

    def work() -> Summary:
        root = Path.cwd()
        params = config.load(root / "params.yaml")
        _follow_dvc()
        with _alone(root, name), _whole_outputs(root, name) as out:
            paths = Paths(root=root, out=out)
            summary = run(params, paths)
        for finish in paths.finished:
            finish()
        return summary

    conclude(called or name, work, interrupted=f"results/{name} is not to be used")


def conclude(name: str, work: Callable[[], Summary], *, interrupted: str) -> None:
    """Do the work and leave the process with 0 (done), 1 (failed) or 2 (the input is wrong)."""
    environment.prepare()
    started = time.monotonic()
    code = 0
    stopped_by = signal.SIGINT

    def terminated(*_: object) -> None:
        nonlocal stopped_by
        stopped_by = signal.SIGTERM
        raise KeyboardInterrupt  # unwinds the stage and ends what it has started; Ray's calls let nothing else pass

    try:
        signal.signal(signal.SIGTERM, terminated)
        said = "  ".join(f"{key} {value}" for key, value in work().items())
        print(f"{name}: {said}  ({clock(time.monotonic() - started)})", flush=True)
    except MasklineError as error:
        print(f"{name}: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        code = 128 + stopped_by
    except Exception:
        traceback.print_exc()
        print(f"{name}: failed; this is a bug in the stage or in what it runs, not in your input", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    sys.exit(code)


def _follow_dvc() -> None:
    """End this stage when the `dvc repro` above it dies: DVC leaves its stages running, and a second repro beside
    one would mix their outputs."""
    parent = os.getppid()
    if "DVC_STAGE" not in os.environ or parent == 1:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _alone(root: Path, name: str) -> Iterator[None]:
    """Wait for another run of this stage to end; the kernel drops the lock of a killed one."""
    path = root / "results" / f".{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{name}: waiting for another run of this stage to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _whole_outputs(root: Path, name: str) -> Iterator[Path]:
    """A folder beside results/<name> whose entries are moved there after success, and dropped otherwise."""
    beside, final = root / "results" / f".{name}", root / "results" / name
    files.remove(beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        final.mkdir(exist_ok=True)
        # Data first, what describes it last: whoever finds a manifest finds all that it names.
        for entry in sorted(beside.iterdir(), key=lambda e: (e.suffix == ".json", e.name)):
            files.remove(final / entry.name)
            entry.replace(final / entry.name)
    finally:
        files.remove(beside)
