"""Files that are whole or absent, and hashes that say which."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def digest(*parts: Any) -> str:
    """sha256 of plain values, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Write beside `path`, sync, rename: at every moment `path` is the old file or the new one, and whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open(mode, encoding=None if "b" in mode else "utf-8", newline=None if "b" in mode else "") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_unsynced(path: Path, data: bytes) -> None:
    """As `replacing`, without waiting for the disk: of many small files, each of which can be made again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Strict JSON: a NaN is an error here, not in the reader."""
    with replacing(path) as file:
        json.dump(value, file, indent=2, allow_nan=False, sort_keys=False)
        file.write("\n")


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """JSON with a checksum of itself: what flips a bit of it is noticed by `read_sealed`."""
    write_json(path, {**values, "checksum": digest(values)})


def read_sealed(path: Path) -> dict[str, Any]:
    """FileNotFoundError where there is none; OSError or ValueError where it is not what was written."""
    values = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(values, dict) or values.pop("checksum", None) != digest(values):
        raise ValueError("checksum mismatch")
    return values


def write_yaml(path: Path, value: Any) -> None:
    with replacing(path) as file:
        yaml.safe_dump(value, file, sort_keys=False)


def write_text(path: Path, text: str) -> None:
    with replacing(path) as file:
        file.write(text)


def link(path: Path, name: Path) -> None:
    """`name` becomes another name of the file; a copy, where the file system has no links."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copy2(path, name)


def remove(path: Path) -> None:
    """A file, a link or a folder; absent is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel drops the lock of a killed one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def touch(folder: Path) -> None:
    """Make it the newest one."""
    folder.mkdir(parents=True, exist_ok=True)
    os.utime(folder)


def keep_newest(folder: Path, pattern: str, count: int) -> None:
    """Remove what matches, but for the `count` that were changed last."""
    found = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
    for path in found[: max(0, len(found) - count)]:
        remove(path)
