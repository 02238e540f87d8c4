"""How many workers a group has: as many as asked for, or fewer while the cluster has no room for those.

What is learned does not depend on it (`Train.passes`), so a group that has lost a node goes on with what is left, and
makes way for a larger one, at a checkpoint, when there is room again.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

from pipelines.cluster import is_ours
from pipelines.cluster.room import Node, answering, nodes, workers_held
from pipelines.errors import ConfigError, MasklineError, RunError
from pipelines.training.workers import regroup

ANSWER = 30.0  # seconds in which a node must answer to be counted on
MOMENT = 10.0  # seconds to wait for all workers' room, where fewer could start
LONG = 300.0  # and where not even the fewest could: a cluster that grows on demand takes minutes
EVERY = 5.0  # seconds between two looks for more room


def fitting(passes: int, *, workers: int, least: int, room: int) -> int:
    """The largest group of at most `workers` that shares the passes evenly and has room; 0: there is none."""
    return max((size for size in range(least, min(workers, room) + 1) if passes % size == 0), default=0)


def smallest(passes: int, *, least: int) -> int:
    """The smallest group of at least so many that shares the passes evenly."""
    return next(size for size in range(least, passes + 1) if passes % size == 0)


@dataclass(kw_only=True)
class Crew:
    """The group's size from one attempt to the next."""

    passes: int
    workers: int  # asked for
    least: int
    gpu: bool
    reserve: int = 0  # CPUs that are left free, for a validation beside
    size: int = 0  # of the latest group
    nodes: list[Node] = field(default_factory=list)  # that the latest group could be placed on
    most: int | None = None  # more have been tried, and these nodes were in use by others

    def form(self, *, moment: float = MOMENT, long: float = LONG) -> str:
        """Choose the next size, and wait a while for room; returns what there is to say of it. RunError: no room came,
        ConfigError: none can come."""
        before, had, start = self.nodes, self.size, time.monotonic()
        while True:
            self.nodes = answering(nodes(), seconds=ANSWER)
            if {n.id for n in self.nodes} != {n.id for n in before}:
                self.most = None
            self.size, waited = self._fits(self.nodes), time.monotonic() - start
            # All of them, or as many as before; or nothing else will come.
            if self.size == self.workers or (self.size and (self.most or is_ours() or waited >= moment)):
                return self._said(before, had)
            if is_ours() or waited >= long:
                raise self._refusal()
            _announce(self.workers, gpu=self.gpu)
            time.sleep(min(1.0, moment))

    def cannot_start(self) -> None:
        """The cluster holds so many, and others use it."""
        self.most, self.nodes = self.size - 1, nodes()
        if not self._fits(self.nodes):
            raise self._refusal()

    @contextmanager
    def growing(self, state: Path, check: Callable[[], object], every: float = EVERY) -> Iterator[None]:
        """While a group works that is smaller than asked for, look for room, and ask it to make way; not for nodes that
        `check` refuses, which would end what works without them."""
        over = Event()

        from ray.exceptions import RayError

        def look() -> None:
            refused: set[str] = set()
            while not over.wait(every):
                try:
                    here = nodes()
                    found = {node.id for node in here}
                    if self._fits(here) > self.size and found != refused:
                        refused = found
                        check()
                        regroup.ask(state)
                        return
                except (MasklineError, RayError) as error:
                    say(f"there is room for more workers, and it is not used: {error}")

        thread = Thread(target=look, daemon=True)
        regroup.clear(state)
        if self.size < self.workers and not is_ours():
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.is_alive():
                thread.join()
            regroup.clear(state)

    def _fits(self, found: list[Node]) -> int:
        same = {node.id for node in found} == {node.id for node in self.nodes}
        room = self._held(found)
        if self.most is not None and same:
            room = min(room, self.most)
        return fitting(self.passes, workers=self.workers, least=self.least, room=room)

    def _held(self, found: list[Node]) -> int:
        held, cpus = workers_held(found, gpu=self.gpu), sum(node.cpus for node in found)
        return min(held, int(cpus) - self.reserve)

    def _said(self, before: list[Node], had: int) -> str:
        alive = {node.id for node in self.nodes}
        gone = [str(node) for node in before if node.id not in alive]
        lost = f"lost node {', '.join(gone)}; " if gone else ""
        if had and had != self.size:
            return f"{lost}{had} -> {self.size} workers, the same global batches"
        if not had and self.size < self.workers:
            return f"room for {self.size} of {self.workers} workers: these begin, with the same global batches"
        return lost.removesuffix("; ")

    def _refusal(self) -> ConfigError | RunError:
        import ray

        kind = "GPU" if self.gpu else "CPU"
        total, free = self._held(self.nodes), ray.available_resources().get(kind, 0)
        what = f"the cluster has {total} {kind}s, {free:g} of them free, for {self.least} workers at least"
        if is_ours():
            return ConfigError(what, do=f"set train.workers to {total}")
        found = "\n".join(f"  - {n}: {n.cpus} CPUs, {n.gpus} GPUs" for n in self.nodes) or "  - no node answers"
        return RunError(
            f"{what}:\n{found}\n"
            "do: add nodes, end what else runs there, or lower train.min_workers; then run it again, and it goes on "
            "from the last checkpoint"
        )


def _announce(workers: int, *, gpu: bool) -> None:
    """A cluster that grows on demand learns here of the demand; others take no notice."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"CPU": 1, **({"GPU": 1} if gpu else {})}] * workers)


def say(text: str) -> None:
    if text:
        print(f"train: {text}", file=sys.stderr, flush=True)
