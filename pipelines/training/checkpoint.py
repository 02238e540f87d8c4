"""Checkpoints that are whole or absent, verified when read, with the one before to fall back on.

Ray's own would not do: it never falls back to an older checkpoint, loses the last report of a killed worker, and
resumes whatever has the same name.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any

import torch

from pipelines import files
from pipelines.errors import RunError

log = logging.getLogger(__name__)
FOLDER = "checkpoints"  # in a job's state folder
STATE, MANIFEST = "state.pt", "manifest.json"
State = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A committed checkpoint."""

    path: Path
    step: int  # updates that were made
    epoch: int | None  # the one that ends here, if one does
    sha256: str


class Checkpoints:
    """In `folder`/step-NNNNNNNN, of the number of updates that were made."""

    def __init__(self, folder: Path):
        self.folder = folder

    @classmethod
    def of(cls, state: Path) -> "Checkpoints":
        """Those of a job, by its state folder."""
        return cls(state / FOLDER)

    def save(self, state: State, *, step: int, epoch: int | None = None) -> None:
        """Written beside, synced, and committed by one rename, the manifest inside."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"step-{step:08d}"
        beside, final = self.folder / f".{name}", self.folder / name
        files.remove(beside)
        with _room_for(state, beside):
            beside.mkdir()
            _write(beside / STATE, state)
            manifest = {"step": step, "epoch": epoch, "sha256": files.sha256(beside / STATE)}
            files.write_sealed(beside / MANIFEST, manifest)
            files.remove(final)
            beside.rename(final)
            _sync(self.folder)

    def entries(self) -> list[Entry]:
        """The committed ones, oldest first; their states are not verified yet."""
        found = []
        for path in self.folder.glob("step-*"):
            try:
                found.append(Entry(path=path, **files.read_sealed(path / MANIFEST)))
            except (OSError, ValueError, TypeError) as error:
                log.warning("checkpoint %s has no readable manifest (%s): left out", path.name, error)
        return sorted(found, key=lambda entry: entry.step)

    def last(self, step: int | None = None) -> State | None:
        """The newest whole state, or the one after so many updates; None when there is none to go on from."""
        return self._first_whole([e for e in self.entries()[::-1] if step in (None, e.step)])

    def best(self, scores: Mapping[int, float]) -> State | None:
        """The whole state at the end of the epoch with the highest score; the earlier one where two are equal."""
        scored = [e for e in self.entries() if e.epoch in scores]
        return self._first_whole(sorted(scored, key=lambda e: (-scores[e.epoch or 0], e.step)))

    def of_epoch(self, epoch: int) -> State | None:
        """The whole state at the end of this epoch."""
        return self._first_whole([e for e in self.entries() if e.epoch == epoch])

    def prune(self, epochs: Collection[int]) -> None:
        """Keep the last, the one before the last, and the ends of these epochs."""
        for entry in self.entries()[:-2]:
            if entry.epoch not in epochs:
                shutil.rmtree(entry.path)

    def _first_whole(self, entries: list[Entry]) -> State | None:
        for entry in entries:
            state = entry.path / STATE
            if state.is_file() and files.sha256(state) == entry.sha256:
                loaded: State = torch.load(state, map_location="cpu", weights_only=True)
                return loaded
            log.warning("checkpoint %s is damaged (sha256 mismatch): falling back to the one before", entry.path.name)
        return None


class Writer:
    """Saves in a thread while training goes on. One at a time; what went wrong is raised by the next call."""

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def save(
        self, state: State, *, step: int, epoch: int | None = None, committed: Callable[[], None] = lambda: None
    ) -> None:
        """`state` must be a copy (`snapshot`). `committed` is called when it can be relied on."""
        self.wait()

        def work() -> None:
            try:
                self.checkpoints.save(state, step=step, epoch=epoch)
                committed()
            except BaseException as error:
                self._error = error

        self._thread = Thread(target=work, name="maskline-checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is under way."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def _write(path: Path, state: State) -> None:
    """Room is asked for first: torch speaks of an unexpected position where a disk is full, and never of the disk."""
    with path.open("wb") as file:
        if need := _bytes(state):
            os.posix_fallocate(file.fileno(), 0, need)
        torch.save(state, file)
        file.truncate()
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _room_for(state: State, beside: Path) -> Iterator[None]:
    """What cannot be written is said, and leaves nothing."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not isinstance(error, OSError) and "unexpected pos" not in str(error):
            raise
        shutil.rmtree(beside, ignore_errors=True)  # half a state takes room that somebody lacks
        need, free = _bytes(state), shutil.disk_usage(beside.parent).free
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or free < need
        raise RunError(
            f"{'disk full' if full else f'cannot write ({error})'}: a checkpoint needs {need / 2**20:.0f} MiB, and "
            f"{free / 2**20:.0f} MiB are free at {beside.parent}\n"
            "do: make room there, then `dvc repro train` goes on from the checkpoint before"
        ) from error


def _bytes(state: State) -> int:
    return sum(t.nbytes for t in _tensors(state))


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def _sync(folder: Path) -> None:
    """The rename itself, which a power cut could lose otherwise."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
