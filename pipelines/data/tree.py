"""A dataset's folder, on this machine or in a bucket: which files are in it, and their bytes.

`Tree` lists it once, for whoever plans; `Files` only opens, and is what travels to the processes that read. A name
that leads out of the folder, by `..`, as an absolute path or through a link, is refused without being opened.
"""

import os
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.data import buckets, decode
from pipelines.data.faults import FaultError, Faults
from pipelines.errors import DataError, RunError

MAX_BYTES = 1 << 29  # of an image or a mask file
MAX_JSON_BYTES = 1 << 31
SUMS = "SHA256SUMS"  # hashes that the source brings, as `sha256sum` writes them
LITTER = ("thumbs.db", "desktop.ini", "__macosx")  # what file managers leave
TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of which "exe.png" can be made from "gnp.exe"
URI = re.compile(r"[a-z][a-z0-9+.-]*://")
ESCAPED = {"\\": "\\", "n": "\n", "r": "\r"}  # how `sha256sum` writes names of several lines
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".7z")
Stamp = tuple[int | str, ...]  # changes when the file does


def is_uri(root: str) -> bool:
    return URI.match(root) is not None


@dataclass(frozen=True, slots=True)
class Files:
    """Opens a dataset's files by their names within its root."""

    root: str = field(repr=False)  # an absolute path without links, or a URI
    depth: int = 16  # significant bits of 16-bit images
    hashes: dict[str, str] = field(default_factory=dict, repr=False)  # of SHA256SUMS

    def read(self, name: str, limit: int = MAX_BYTES) -> bytes:
        if _leads_out(name):  # in a bucket too, a `..` would be resolved on the way
            raise FaultError("outside-root", "outside dataset root")
        data = self._remote(name, limit) if is_uri(self.root) else self._local(name, limit)
        if name in self.hashes:
            decode.check_hash(data, self.hashes[name])
        return data

    def image(self, name: str) -> decode.Picture:
        """An image, decoded to its last byte."""
        return decode.image(self.read(name), depth=self.depth, suffix=PurePosixPath(name).suffix)

    def mask(self, name: str) -> Any:
        """A mask of one channel: exactly the numbers in the file."""
        return decode.mask(self.read(name))

    def _local(self, name: str, limit: int) -> bytes:
        path = Path(self.root, name)
        try:
            if not Path(os.path.realpath(path)).is_relative_to(self.root):  # a link, made since the folder was listed
                raise FaultError("outside-root", "outside dataset root")
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > limit:
                    raise FaultError("too-large", f"bytes {size} over limit {limit}")
                data = file.read(size + 1)
        except (FileNotFoundError, ValueError):  # no file's name has a null in it
            raise FaultError("missing-file", "missing") from None
        except OSError as error:
            raise FaultError("unreadable", f"cannot be read: {error.strerror}") from None
        return _whole(data, size)

    def _remote(self, name: str, limit: int) -> bytes:
        system, path = buckets.filesystem(self.root)
        try:
            with system.open_input_file(f"{path}/{name}") as file:
                size = file.size()
                if size > limit:
                    raise FaultError("too-large", f"bytes {size} over limit {limit}")
                data: bytes = file.read(size)
        except FileNotFoundError:
            raise FaultError("missing-file", "missing") from None
        except OSError as error:
            reason, do = buckets.why(error)
            if buckets.code_of(error) == "ACCESS_DENIED":
                raise FaultError("unreadable", f"cannot be read: {reason}") from None
            # A server that fails says nothing about the image, which must not be left out for it.
            raise RunError(
                f"{self.root}: {name} cannot be read: {reason}\ndo: {do}, and run it again: it goes on from here"
            ) from None
        return _whole(data, size)


def _whole(data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise FaultError("unreadable", f"has {len(data)} bytes of {size}: it changed while it was read")
    return data


def _leads_out(name: str) -> bool:
    return bool({"", ".", ".."} & set(name.split("/")))


class Tree:
    """What is in the folder. Names that begin with a dot, and what file managers leave, are not looked at. `what` is
    what a message calls it."""

    def __init__(self, root: str, depth: int = 16, what: str = "dataset.root"):
        self.what = what
        self.faults = Faults()
        self.stamps: dict[str, Stamp] = {}
        self.root = root if is_uri(root) else _folder(root)
        found = self._remote() if is_uri(root) else self._local()
        for name, stamp in sorted(found):
            if _is_text(name):
                self.stamps[name] = stamp
            else:
                self.faults.add("name", repr(name), "the name must be UTF-8 without control characters")
        self.files = Files(self.root, depth)
        if SUMS in self.stamps:
            with self.faults.of(SUMS):
                self.files = Files(self.root, depth, _sums(self.files.read(SUMS)))
            for name in sorted(self.files.hashes.keys() - self.stamps.keys()):
                hidden = any(map(_hidden, name.split("/")))
                if _is_text(name) and not hidden and not name.lower().endswith(ARCHIVES):
                    self.faults.add("missing-file", name, f"missing, and listed in {SUMS}")

    @property
    def name(self) -> str:
        return PurePosixPath(buckets.parse(self.root)[0] if is_uri(self.root) else self.root).name

    def __contains__(self, name: str) -> bool:
        return name in self.stamps

    def has_folder(self, name: str) -> bool:
        return name in self.folders

    @cached_property
    def folders(self) -> frozenset[str]:
        """Every folder that holds something; "" is the root."""
        found: set[str] = set()
        for name in self.stamps:
            parent = name.rpartition("/")[0]
            while parent not in found:
                found.add(parent)
                parent = parent.rpartition("/")[0]
        return frozenset(found)

    def under(self, folder: str, suffixes: tuple[str, ...] = ()) -> list[str]:
        """The files below `folder`, sorted; those that end so, where `suffixes` are given."""
        start = f"{folder}/" if folder else ""
        ends = tuple(suffix.lower() for suffix in suffixes)
        return [n for n in self.stamps if n.startswith(start) and (not ends or n.lower().endswith(ends))]

    def children(self, folder: str) -> list[str]:
        """The folders directly in `folder`, by their whole names, sorted."""
        start = f"{folder}/" if folder else ""
        return sorted(f for f in self.folders if f and f.rpartition("/")[0] == folder and f.startswith(start))

    def first_folder(self, *candidates: str) -> str:
        for candidate in candidates:
            if self.has_folder(candidate):
                return candidate
        raise FaultError("layout", f"there is none of the folders {', '.join(candidates)} in {self.root}")

    def check(self, name: str) -> None:
        """Refuse what is not a file of this folder, without opening it."""
        if name in self.stamps:
            return
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name in self._leaving:
            raise FaultError("outside-root", "outside dataset root")
        raise FaultError("missing-file", "missing")

    @cached_property
    def _leaving(self) -> frozenset[str]:
        return frozenset(fault.file for fault in self.faults if fault.kind == "outside-root")

    def _local(self) -> Iterator[tuple[str, Stamp]]:
        todo = [""]
        while todo:
            at = todo.pop()
            try:
                with os.scandir(Path(self.root, at)) as entries:
                    for entry in entries:
                        if _hidden(entry.name):
                            continue
                        name = f"{at}/{entry.name}" if at else entry.name
                        if entry.is_symlink() and not self._stays(name):
                            continue
                        if entry.is_dir():
                            todo.append(name)
                        elif entry.is_file():
                            stat = entry.stat()
                            yield name, (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
                        else:
                            self.faults.add("unreadable", name, "is neither a file nor a folder")
            except OSError as error:
                self.faults.add("unreadable", at, f"cannot be listed: {error.strerror}")

    def _stays(self, name: str) -> bool:
        """Whether a link may be followed: to a file in this folder."""
        path = Path(self.root, name)
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            self.faults.add("unreadable", name, f"cannot be resolved: {error}")
            return False
        if not target.is_relative_to(self.root):
            self.faults.add("outside-root", name, "a link that leads outside dataset root")
        elif target.is_dir():
            self.faults.add("layout", name, "a link to a folder is not followed")
        elif not target.exists():
            self.faults.add("missing-file", name, "a link to nothing")
        else:
            return True
        return False

    def _remote(self) -> Iterator[tuple[str, Stamp]]:
        from pyarrow import fs

        system, path = buckets.filesystem(self.root)
        try:
            found = system.get_file_info(fs.FileSelector(path, recursive=True))
        except OSError as error:
            raise buckets.refusal(f"{self.what}: {self.root} cannot be listed", error) from None
        for info in found:
            name = info.path.removeprefix(f"{path}/")
            if info.type != fs.FileType.File:
                continue
            if ".." in name.split("/"):
                self.faults.add("outside-root", name, "a name that leads outside dataset root")
            elif "" in name.split("/"):
                self.faults.add("name", name, "a folder's name must not be empty")
            elif not any(map(_hidden, name.split("/"))):
                yield name, (info.size, info.mtime_ns or 0)


def _is_text(name: str) -> bool:
    """No control character, no line end, nothing that turns the direction of writing, no bytes that are no UTF-8."""
    return not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in TURNING for c in name)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in LITTER


def _folder(root: str) -> str:
    """The dataset's root, with links resolved: every file must lie in it."""
    path = Path(root)
    if path.is_file() and path.suffix.lower() in ARCHIVES:
        raise DataError(f"dataset.root: {root} is an archive", do="unpack it and name the folder")
    if not path.is_dir():
        raise DataError(f"dataset.root: {root} is not a folder", do="set dataset.root in params.yaml")
    return str(path.resolve())


def _sums(data: bytes) -> dict[str, str]:
    """Name -> hash, as `sha256sum` writes them; a name that it had to escape begins with a backslash in its line."""
    found, other = {}, []
    for number, line in enumerate(data.decode("utf-8-sig", errors="surrogateescape").split("\n"), start=1):
        match = re.fullmatch(r"(\\?)([0-9a-fA-F]{64}) [ *](.+?)\r?", line)
        if match:
            name = re.sub(r"\\(.)", lambda m: ESCAPED.get(m[1], m[0]), match[3]) if match[1] else match[3]
            found[name.removeprefix("./")] = match[2].lower()
        elif line.strip():
            other.append(number)
    if other:
        form = "a hash, two spaces and a name, as sha256sum writes them"
        raise FaultError("layout", f"{len(other)} lines are not {form}; the first is line {other[0]}")
    return found
