"""Ingests in processes of their own, which may be killed: forked from one that has imported what they need."""

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipelines.data.formats.source import Source
from pipelines.data.ingest.run import Ingested, ingest
from tests.faults.line import run

DRAWN = {"height": 24, "width": 32, "difficulty": 0.5}
CHANGES = ("open", "os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate")
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.processes"])


def draw(out: Path, state: Path) -> Ingested:
    """Ten images that are drawn: all is done in this process."""
    source = Source(tree=None, splits={"train": 6, "val": 2, "test": 2}, shapes=DRAWN)
    earlier = out.with_name("earlier")
    return ingest(format="shapes", source=source, out=out, state=state, earlier=earlier, workers=1, rows_per_shard=2)


def draw_until(change: int, out: Path, state: Path) -> None:
    """Ends by SIGKILL at that change of a file, if there are as many."""
    left = change

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in CHANGES and str(arguments[0]).startswith(str(out.parent)) and _writes(event, arguments):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    draw(out, state)


def _writes(event: str, arguments: tuple[Any, ...]) -> bool:
    return event != "open" or bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))


def measured(root: Path, out: Path, pipe: Any) -> None:
    """Sends the memory in bytes that reading the source took at most, and its seconds."""
    started = time.monotonic()
    run(root, out, stratify=False)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10
    pipe.send((peak, time.monotonic() - started))


def start(function: Callable[..., None], *arguments: Any) -> multiprocessing.process.BaseProcess:
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process
