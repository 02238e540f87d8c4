"""Batches in memory that processes share: a worker writes pixels where the trainer reads them, and no pixel goes
through a pipe.

The memory has no name: nothing of it is left in /dev/shm, whoever dies, and the size of /dev/shm does not bound it.
"""

import mmap
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor

from pipelines.data.schema import IGNORE
from pipelines.errors import RunError
from pipelines.loading.augment import Sample
from pipelines.loading.batch import Batch
from pipelines.loading.instances import Instances
from pipelines.targets import Targets

ID_BYTES = 128  # of each id, for the message when its reader dies
PAGE = 4096
CGROUP = Path("/sys/fs/cgroup")  # of this container, where there is one


@dataclass(frozen=True, kw_only=True, slots=True)
class Filled:
    """What a full slot holds beside pixels: small enough for a pipe."""

    ids: list[str]
    instances: list[tuple[int, int]]  # of each sample: rows of its table, bytes of its bits
    overflow: bytes | None  # the tables and bits, where the slot has not room enough for them


class Slot:
    """The arrays of one batch, in shared memory."""

    def __init__(self, memory: np.ndarray, batch: int, height: int, width: int, border: bool):
        self.memory, at = memory, 0

        def take(shape: tuple[int, ...], kind: Any) -> np.ndarray:
            nonlocal at
            start, at = at, at + int(np.prod(shape)) * np.dtype(kind).itemsize
            array: np.ndarray = memory[start:at].view(kind).reshape(shape)
            return array

        self.indices = take((batch,), np.int64)
        self.done = take((1,), np.int64)  # samples of this batch
        self.names = take((batch,), f"S{ID_BYTES}")
        self.border = take((batch, height, width), np.float32) if border else None
        self.images = take((batch, height, width, 3), np.uint8)
        self.semantic = take((batch, height, width), np.uint8)
        self.room = memory[at:]  # for what instances need: as much as all crops have pixels, a mask has a bit of each

    def fill(self, epoch: int, load: Callable[[tuple[int, int]], Sample]) -> Filled:
        """load((epoch, index)) for each of the slot's indices."""
        self.done[0] = 0
        ids, instances, parts = [], [], []
        for i, index in enumerate(self.indices.tolist()):
            sample = load((epoch, index))
            self._put(i, sample)
            ids.append(sample.id)
            table, bits = sample.instances.table, sample.instances.bits
            instances.append((len(table), len(bits)))
            parts += [table.view(np.uint8).ravel(), bits]
            self.done[0] = i + 1
        whole = np.concatenate(parts)
        if fits := whole.size <= self.room.size:
            self.room[: whole.size] = whole
        return Filled(ids=ids, instances=instances, overflow=None if fits else whole.tobytes())

    def _put(self, i: int, sample: Sample) -> None:
        """The border of images is replicated up to the stride: it looks like no object and shifts no statistics."""
        height, width = sample.semantic.shape
        self.names[i] = sample.id.encode()[:ID_BYTES]
        image, semantic = self.images[i], self.semantic[i]
        image[:height, :width], image[:height, width:] = sample.image, sample.image[:, -1:]
        image[height:] = image[height - 1]
        semantic[:height, :width], semantic[:height, width:], semantic[height:] = sample.semantic, IGNORE, IGNORE
        if self.border is not None:
            self.border[i] = 1
            self.border[i, :height, :width] = sample.border

    def batch(self, filled: Filled, *, pin: bool) -> Batch:
        """Copied out: the batch is its owner's to keep, and the slot is free."""
        rest = np.frombuffer(filled.overflow, np.uint8) if filled.overflow is not None else self.room
        instances, at = [], 0
        for rows, size in filled.instances:
            middle = at + rows * 24
            table = rest[at:middle].view(np.int32).reshape(rows, 6)
            instances.append(Instances(table=table, bits=rest[middle : middle + size]))
            at = middle + size
        height, width = self.semantic.shape[1:]
        return Batch(
            ids=filled.ids,
            images=_copied(self.images, torch.uint8, pin).permute(0, 3, 1, 2),
            targets=Targets(
                semantic=_copied(self.semantic, torch.int64, pin),
                border=None if self.border is None else _copied(self.border, torch.float32, pin),
                instances=[found.dense(height, width) for found in instances],
            ),
        )

    def names_read(self) -> list[str]:
        return [name.decode(errors="replace") for name in self.names[: int(self.done[0])].tolist()]


def _copied(array: np.ndarray, dtype: torch.dtype, pin: bool) -> Tensor:
    return torch.empty(array.shape, dtype=dtype, pin_memory=pin).copy_(torch.from_numpy(array))


class Slots:
    """`count` slots in one piece of memory, which a process that is sent this object shares. With `border` they have
    room for a weight of each pixel."""

    def __init__(self, count: int, *, batch: int, height: int, width: int, border: bool = False):
        self.count, self.shape = count, (batch, height, width, border)
        pixels = batch * height * width
        self.bytes = -(-(batch * (8 + ID_BYTES) + 8 + (9 if border else 5) * pixels) // PAGE) * PAGE
        self.file = _reserve(count * self.bytes)
        self._map()

    def _map(self) -> None:
        memory = np.frombuffer(mmap.mmap(self.file.fileno(), self.count * self.bytes), np.uint8)
        self.slots = [Slot(part, *self.shape) for part in memory.reshape(self.count, self.bytes)]

    def __getitem__(self, k: int) -> Slot:
        return self.slots[k]

    def __getstate__(self) -> dict[str, Any]:
        """Can be sent to a process that is being started, and to no other."""
        handle = reduction.DupFd(self.file.fileno())
        return {"count": self.count, "shape": self.shape, "bytes": self.bytes, "file": handle}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.file = os.fdopen(state["file"].detach(), "r+b", buffering=0)
        self._map()


def _reserve(size: int) -> Any:
    """A file without a name, in memory where the system can."""
    free = free_memory()
    if size > free:
        raise RunError(
            f"the loader needs {size >> 20} MB of memory for batches, and {free >> 20} MB are free\n"
            "do: lower train.loader_workers, train.batch_size or train.augment.crop"
        )
    if hasattr(os, "memfd_create"):
        file: Any = os.fdopen(os.memfd_create("maskline-batches"), "r+b", buffering=0)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - lives as long as the slots
    os.ftruncate(file.fileno(), size)
    return file


def free_memory() -> int:
    """Bytes that this process may still take, in its container too."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((CGROUP / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no cgroup, or its limit is "max"
        return free
