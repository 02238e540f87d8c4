"""A bucket's shards on this machine: each is fetched once, whoever asks for it, and believed if its hash is right.

Beyond MASKLINE_CACHE_GB the shards that were used longest ago are dropped. Who has a shard mapped holds a shared lock
on its file, which ends with the mapping or the process; a locked one is not dropped, since its bytes would stay on the
disk as long as it is mapped, and the next to ask would fetch it a second time.
"""

import fcntl
import hashlib
import mmap
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from pipelines.data.schema import ShardInfo
from pipelines.errors import ConfigError, DataError, RunError

GIGABYTES = 100.0
FORGOTTEN = 3600.0  # seconds since a download grew, after which nobody is at it
ROOM = "set MASKLINE_CACHE to a folder with more room, or MASKLINE_CACHE_GB to fewer gigabytes"


def folder() -> Path:
    """Where shards are kept; MASKLINE_CACHE names another folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "maskline"
    return Path(os.environ.get("MASKLINE_CACHE") or default) / "shards"


def limit() -> int:
    """Bytes."""
    said = os.environ.get("MASKLINE_CACHE_GB") or str(GIGABYTES)
    if not re.fullmatch(r"\d+(\.\d+)?", said):
        raise ConfigError(f"MASKLINE_CACHE_GB is '{said}'", do="set it to a number of gigabytes, or unset it")
    return int(float(said) * 1e9)


def shard(info: ShardInfo, fetch: Callable[[], Iterable[bytes]], *, verify: bool) -> pa.Buffer:
    """The shard's bytes, mapped. A file that is not what it was, by its hash if `verify`, is fetched again."""
    path = folder() / f"{info.sha256}.arrow"
    try:
        if (found := _mapped(path, info, verify)) is not None:
            return found
        path.parent.mkdir(parents=True, exist_ok=True)
        with _turn(path):  # all but the first to come find it there
            if (found := _mapped(path, info, verify)) is not None:
                return found
            path.unlink(missing_ok=True)
            trim(room_for=info.bytes)
            return _written(path, info, fetch())
    except OSError as error:
        raise RunError(f"{path.parent} cannot hold shards: {error.strerror or error}\ndo: {ROOM}") from None


def adopt(path: Path, info: ShardInfo) -> None:
    """Keep a shard that was made here, where that costs nothing: on the same disk."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        trim(room_for=info.bytes)
        path.replace(folder() / f"{info.sha256}.arrow")
    except OSError:
        path.unlink(missing_ok=True)


def trim(room_for: int) -> None:
    """Make room for so many bytes."""
    found = []
    for path in folder().iterdir():
        if path.suffix in (".arrow", ".tmp"):
            with suppress(FileNotFoundError):  # another process makes room as well
                found.append((path.stat(), path))
    total = room_for + sum(stat.st_size for stat, _ in found)
    most = limit()
    for stat, path in sorted(found, key=lambda pair: pair[0].st_mtime):
        forgotten = path.suffix == ".tmp" and time.time() - stat.st_mtime > FORGOTTEN
        if forgotten or (path.suffix == ".arrow" and total > most and _free(path)):
            path.unlink(missing_ok=True)
            total -= stat.st_size


def _mapped(path: Path, info: ShardInfo, verify: bool) -> pa.Buffer | None:
    """None where it is not there, or not what it was."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        stat = os.fstat(file.fileno())
        if stat.st_nlink == 0 or stat.st_size != info.bytes:  # dropped between the two lines above, or cut
            return None
        with suppress(PermissionError):  # of another user
            os.utime(file.fileno())  # used now
        # Python's map keeps the descriptor, and with it the lock; Arrow's opens the file anew.
        buffer = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if not verify or hashlib.sha256(buffer).hexdigest() == info.sha256:
            return buffer
    return None


def _written(path: Path, info: ShardInfo, pieces: Iterable[bytes]) -> pa.Buffer:
    beside = path.with_name(f".{path.name}.tmp")
    digest, size = hashlib.sha256(), 0
    try:
        with beside.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                size += len(piece)
                if size > info.bytes:
                    break
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if size != info.bytes or digest.hexdigest() != info.sha256:
            raise DataError(
                f"sha256 mismatch: shard {info.path} of the bucket is not what ingest wrote",
                do="remove it from the bucket, and dvc repro --force ingest",
            )
        buffer = _mapped(beside, info, verify=False)  # and so locked before others see it
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    assert buffer is not None  # noqa: S101 - it was just written, under the lock of `_turn`
    return buffer


def _free(path: Path) -> bool:
    """Whether no process has it mapped."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextmanager
def _turn(path: Path) -> Iterator[None]:
    """One process and thread at a time, of those that want this shard (or one of a 256th of all others)."""
    with path.with_name(f".{path.name[:2]}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
