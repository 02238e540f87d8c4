"""An ordered map in child processes that may crash, hang or run out of memory without harm.

`concurrent.futures` fails every pending item when one process dies, and says neither which item it was nor which
signal. Here each child has one item at a time and a pipe of its own: its death is that item's result, and a fresh child
takes over. A child whose parent dies reads the end of its pipe and leaves.
"""

import multiprocessing
import resource
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from pipelines.errors import RunError

Item = TypeVar("Item")
Result = TypeVar("Result")

MEMORY = 4 << 30  # bytes of address space per child
SECONDS = 120.0  # per item
AHEAD = 4  # items per child that may be done before their turn
# No threads, locks or open files of the parent are copied; needs the main module to be importable.
CONTEXT = multiprocessing.get_context("spawn")


class LostError(Exception):
    """The process that worked on the item is gone; says how."""


class Pool:
    """Children that are kept from one `ordered` to the next. Use as a context manager."""

    def __init__(
        self, function: Callable[[Any], Any], *, workers: int, memory: int = MEMORY, seconds: float = SECONDS
    ) -> None:
        self.children = [_Child(function, memory, seconds) for _ in range(workers)]

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.end()

    def ordered(self, items: Sequence[Any]) -> Generator[tuple[Any, Any], None, None]:
        """(item, function(item)) in the items' order; an exception, or `LostError`, stands in for its item's result.
        To be read to its end, or the pool to be left."""
        done: dict[int, Any] = {}  # results whose turn has not come
        given = turn = 0
        while turn < len(items):
            given = self._give(items, given, turn)
            busy = {child.pipe: child for child in self.children if not child.free}
            soonest = min((child.deadline for child in busy.values()), default=0.0) - time.monotonic()
            for pipe in wait(list(busy), timeout=0 if turn in done else min(max(soonest, 0.0), 60.0)):
                child = busy[pipe]  # type: ignore[index]
                if (answer := child.take()) is not None:
                    done[answer[0]] = answer[1]
            for child in busy.values():
                if child.overdue:
                    index = child.index
                    done[index] = child.replace(f"took longer than {child.seconds:g} s")
            if turn in done:
                given = self._give(items, given, turn)  # before the caller gets busy with this one
                yield items[turn], done.pop(turn)
                turn += 1

    def _give(self, items: Sequence[Any], given: int, turn: int) -> int:
        for child in self.children:
            if child.free and given < min(len(items), turn + AHEAD * len(self.children)):
                child.give(given, items[given])
                given += 1
        return given


def ordered(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    memory: int = MEMORY,
    seconds: float = SECONDS,
) -> Generator[tuple[Item, Result | Exception], None, None]:
    """`Pool.ordered` with a pool of its own."""
    with Pool(function, workers=min(workers, len(items)), memory=memory, seconds=seconds) as pool:
        yield from pool.ordered(items)


def here(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[tuple[Item, Result | Exception]]:
    """The same in this process: for functions that read nothing from outside."""
    for item in items:
        yield item, _answer(function, item)


class _Child:
    """One process, and the item that it has."""

    def __init__(self, function: Callable[[Any], Any], memory: int, seconds: float):
        self.function, self.memory, self.seconds = function, memory, seconds
        self._start()

    def _start(self) -> None:
        self.ready, self.index, self.deadline = False, -1, float("inf")
        self.pipe, far = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(far, self.function, self.memory), daemon=True)
        self.process.start()
        far.close()

    @property
    def free(self) -> bool:
        return self.ready and self.index < 0

    @property
    def overdue(self) -> bool:
        return time.monotonic() > self.deadline

    def give(self, index: int, item: Any) -> None:
        self.index, self.deadline = index, time.monotonic() + self.seconds
        with suppress(BrokenPipeError):  # dead while idle: `take` will find out
            self.pipe.send(item)  # cannot block for long: the child is waiting for it

    def take(self) -> tuple[int, Any] | None:
        """The item's index and result; None for the word that the child has started."""
        index = self.index
        try:
            result = self.pipe.recv()
        except (EOFError, OSError):  # it died before, or in the middle of, its answer
            if not self.ready:
                self.end(gently=True)
                raise RunError(f"a worker process could not start ({self._ending()}): see its message above") from None
            return index, self.replace()
        self.index, self.deadline = -1, float("inf")
        if not self.ready:
            self.ready = True
            return None
        return index, result

    def replace(self, why: str = "") -> LostError:
        self.end(gently=not why)
        lost = LostError(why or f"the process that read it {self._ending()}")
        self._start()
        return lost

    def end(self, gently: bool = False) -> None:
        self.pipe.close()
        if gently:
            self.process.join(5)  # it is dying already: wait for its exit code
        self.process.kill()
        self.process.join()

    def _ending(self) -> str:
        code = self.process.exitcode or 0
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _serve(pipe: Connection, function: Callable[[Any], Any], memory: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the parent ends its children
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (memory if most == resource.RLIM_INFINITY else min(memory, most), most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pipe.send(None)
        while True:
            pipe.send(_answer(function, pipe.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent is gone, or needs no more


def _answer(function: Callable[[Item], Result], item: Item) -> Result | Exception:
    try:
        return function(item)
    except Exception as error:
        error.add_note(traceback.format_exc())  # a traceback does not survive the pipe
        return error
