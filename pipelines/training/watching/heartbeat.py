"""Where each rank stands, for the others to read while they wait for it: one small file per rank, mapped into memory.

A beat is a few stores into memory: no lock, no system call. It outlives its writer, so it says where a rank stood when
it was killed.
"""

import mmap
import os
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines import files

LAYOUT = struct.Struct("<qdiB16sH384s")  # step, time, process, phase's length, phase, ids' length, ids
COUNT = struct.Struct("<Q")  # before it: odd while the record is written
HOST = struct.Struct("<64s")  # behind it
SIZE = COUNT.size + LAYOUT.size + HOST.size
READS = 100  # of a record that changes meanwhile
AT_LEISURE = frozenset({"validation", "checkpoint"})  # phases that may take as long as they like


@dataclass(frozen=True, kw_only=True, slots=True)
class Pulse:
    """Where a rank stands, and since when."""

    step: int
    phase: str
    time: float  # of its clock, since 1970
    process: int
    host: str
    ids: str  # of the batch's images, as many as fit


class Heartbeat:
    """The writing side, of one rank."""

    def __init__(self, folder: Path, rank: int):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"rank-{rank}"
        host = HOST.pack(socket.gethostname().encode()[: HOST.size])
        with files.replacing(path, "wb") as file:  # whoever still has the one before mapped keeps it
            file.write(bytes(SIZE - HOST.size) + host)
        with path.open("r+b") as file:
            self.map = mmap.mmap(file.fileno(), SIZE)
        self.count = 0
        self.step, self.phase, self.ids = -1, "", b""
        self.process = os.getpid()
        self.steps = -1  # that were done in this process
        self.slowest = 0.0  # seconds of a step, but for the first, which compiles and warms up
        self.began, self.leisurely = time.monotonic(), False

    def beat(self, step: int, phase: str, ids: Sequence[str] = ()) -> None:
        """This rank enters a phase of a step; `ids`: of the images that it now has, until it has others."""
        if step != self.step:
            self._stepped()
        self.step, self.phase = step, phase
        if phase == "data":
            self.ids = b""
        if ids:
            self.ids = ", ".join(ids).encode()[:384]
        if phase in AT_LEISURE:
            self.leisurely = True
        name = phase.encode()
        self.count += 2
        COUNT.pack_into(self.map, 0, self.count - 1)
        LAYOUT.pack_into(
            self.map, COUNT.size, step, time.time(), self.process, len(name), name, len(self.ids), self.ids
        )
        COUNT.pack_into(self.map, 0, self.count)

    def _stepped(self) -> None:
        now = time.monotonic()
        if self.steps >= 1 and not self.leisurely:
            self.slowest = max(self.slowest, now - self.began)
        self.steps += 1
        self.began, self.leisurely = now, False


def read(folder: Path, rank: int) -> Pulse | None:
    """Where the rank stands; None where it has not said yet."""
    raw = b""
    for _ in range(READS):
        try:
            raw = (folder / f"rank-{rank}").read_bytes()
        except OSError:
            return None
        if COUNT.unpack_from(raw)[0] % 2 == 0:
            break
    # Odd still: its writer was stopped in the middle of a beat. Half of it says more than nothing.
    if COUNT.unpack_from(raw)[0] == 0:
        return None
    step, at, process, long, phase, length, ids = LAYOUT.unpack_from(raw, COUNT.size)
    (host,) = HOST.unpack_from(raw, COUNT.size + LAYOUT.size)
    return Pulse(
        step=step,
        phase=phase[:long].decode(errors="replace"),
        time=at,
        process=process,
        host=host.rstrip(b"\0").decode(errors="replace"),
        ids=ids[:length].decode(errors="replace"),
    )
