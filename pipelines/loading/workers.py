"""Processes that fill slots. Only small messages pass between them and the trainer.

Each has a pipe of its own and no lock is shared, so that one that dies takes nothing with it: its end is noticed at
once, and said with the images that it had.
"""

import multiprocessing
import os
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import cv2
import torch

from pipelines.errors import MasklineError, RunError
from pipelines.loading.augment import Sample
from pipelines.loading.slots import Filled, Slots

CONTEXT = multiprocessing.get_context("forkserver")  # torch is imported once for all, and no thread is copied


class Workers:
    """A fixed number of processes, and the tasks that each has."""

    def __init__(
        self, load: Callable[[tuple[int, int]], Sample], slots: Slots, *, images: int, count: int, seconds: float
    ):
        """`seconds` without a sample end the run. An index is that of one of the `images` when it is taken modulo."""
        CONTEXT.set_forkserver_preload([__name__])
        self.slots, self.images, self.seconds = slots, images, seconds
        self.done: dict[int, Filled | MasklineError | str] = {}
        self.processes: list[Any] = []
        self.pipes: list[Connection] = []
        self.tasks: list[dict[int, tuple[int, int]]] = []  # of each process: number -> (slot, epoch)
        self.close = weakref.finalize(self, _end, self.processes, self.pipes)
        for _ in range(count):
            pipe, far = CONTEXT.Pipe()
            process = CONTEXT.Process(target=_serve, args=(far, load, slots), daemon=True, name="maskline-loader")
            process.start()
            far.close()
            self.processes.append(process)
            self.pipes.append(pipe)
            self.tasks.append({})

    def give(self, number: int, slot: int, keys: list[tuple[int, int]]) -> None:
        """The batch `number`, to whoever has the least to do."""
        self.slots[slot].indices[:] = [index for _, index in keys]
        self.slots[slot].done[0] = 0
        k = min(range(len(self.tasks)), key=lambda k: len(self.tasks[k]))
        self.tasks[k][number] = (slot, keys[0][0])
        with suppress(BrokenPipeError):  # dead: `take` will say so
            self.pipes[k].send((number, slot, keys[0][0]))

    def take(self, number: int) -> Filled | MasklineError | str:
        """What came of the batch `number`: it, an error to raise, or the traceback of a bug."""
        seen, since = -1, time.monotonic()
        while number not in self.done:
            ready = wait([*self.pipes, *(p.sentinel for p in self.processes)], timeout=min(self.seconds, 1.0))
            for k, pipe in enumerate(self.pipes):
                if pipe in ready:
                    self._receive(k)
                elif self.processes[k].sentinel in ready:
                    raise self._lost(k, self._ending(k))
            k = next((k for k, tasks in enumerate(self.tasks) if number in tasks), 0)
            progress = self._progress(k)
            if progress != seen:
                seen, since = progress, time.monotonic()
            elif time.monotonic() - since > self.seconds and number not in self.done:
                raise self._lost(k, f"has done nothing for {self.seconds:g} s")
        return self.done.pop(number)

    def _receive(self, k: int) -> None:
        try:
            number, result = self.pipes[k].recv()
        except (EOFError, OSError):  # it died in the middle of its answer, or before
            raise self._lost(k, self._ending(k)) from None
        self.done[number] = result
        del self.tasks[k][number]

    def _progress(self, k: int) -> int:
        """Grows with every sample that the process finishes."""
        waiting = min(self.tasks[k], default=0)
        return 0 if not self.tasks[k] else (waiting << 32) + int(self.slots[self.tasks[k][waiting][0]].done[0])

    def _ending(self, k: int) -> str:
        self.processes[k].join(5)  # its end and its exit code do not come at once
        code = self.processes[k].exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def _lost(self, k: int, how: str) -> RunError:
        """The error that says so, and the end of all."""
        lines = [f"a loader worker (pid {self.processes[k].pid}) {how}"]
        if self.tasks[k]:
            slot, epoch = self.tasks[k][min(self.tasks[k])]
            batch = self.slots[slot]
            indices, names = (batch.indices % self.images).tolist(), batch.names_read()
            read = [f"{i} ({name})" for i, name in zip(indices, names, strict=False)]
            at = indices[len(names)] if len(names) < len(indices) else indices[-1]
            lines.append(
                f"its batch in epoch {epoch}: images {', '.join(map(str, indices))} of the training split; "
                f"it was at image {at}" + (f", after {', '.join(read)}" if read else "")
            )
        self.close()
        lines.append("do: see that memory has room (dmesg names what was killed for it) and that the disk answers")
        return RunError("\n".join(lines))


def _end(processes: list[Any], pipes: list[Connection]) -> None:
    for pipe in pipes:
        pipe.close()
    for process in processes:
        process.kill()  # it holds nothing that another waits for
    for process in processes:
        process.join()


def _serve(pipe: Connection, load: Callable[[tuple[int, int]], Sample], slots: Slots) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends its workers
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            number, slot, epoch = pipe.recv()
            pipe.send((number, _answer(slots, slot, epoch, load)))


def _answer(
    slots: Slots, slot: int, epoch: int, load: Callable[[tuple[int, int]], Sample]
) -> Filled | MasklineError | str:
    try:
        return slots[slot].fill(epoch, load)
    except MasklineError as error:
        return error
    except Exception:
        return traceback.format_exc()


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)  # also where the main thread hangs
