"""A collective never hangs without an explanation: a thread in each worker looks whether its rank waits for too long,
says for whom, and ends the process, so that Ray starts the group again from its last checkpoint.

Without it a rank that was stopped or dead-locked holds up all others until the collective's own timeout (gloo's and
NCCL's are many minutes), whose message does not name it.
"""

import contextlib
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Event, Thread

import psutil

from pipelines.files import locked
from pipelines.training.watching import heartbeat
from pipelines.training.watching.events import EventLog, tail
from pipelines.training.watching.heartbeat import AT_LEISURE, Heartbeat, Pulse

HUNG = 86  # the exit code of a process that has waited in vain
ALLOWANCE = 600.0  # seconds: for a first step, which may compile, and for phases that take as long as they like
WAITING = frozenset({"communication"})  # phases in which a rank needs the others


class Watchdog:
    """Watches this rank's `heart`. Use as a context manager, around all that the group does together."""

    def __init__(
        self,
        heart: Heartbeat,
        folder: Path,
        events: EventLog,
        *,
        rank: int,
        world: int,
        hang_seconds: float,
        allowance: float = ALLOWANCE,
        waiting: frozenset[str] = WAITING,
    ):
        self.heart, self.folder, self.events, self.rank, self.world = heart, folder, events, rank, world
        self.hang_seconds, self.allowance, self.waiting = hang_seconds, allowance, waiting
        self.interval = min(1.0, hang_seconds / 4)
        self.stop = Event()
        self.thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.world > 1:
            self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join()

    @property
    def deadline(self) -> float:
        """Seconds that this rank may wait."""
        return self.allowance if self.heart.steps < 2 else self.hang_seconds + 2 * self.heart.slowest

    def _watch(self) -> None:
        seen, waited = -1, 0.0
        while not self.stop.wait(self.interval):
            # Turns are counted, not the clock: a process that was itself stopped for a while has not waited.
            same = self.heart.count == seen and self.heart.phase in self.waiting
            seen, waited = self.heart.count, waited + self.interval if same else 0.0
            if waited <= self.deadline:
                continue
            pulses = {rank: heartbeat.read(self.folder, rank) for rank in range(self.world)}
            to_blame = blamed(pulses, self.waiting)
            if any(_at_leisure(pulses[rank]) for rank in to_blame):
                continue
            self._end(pulses, to_blame)

    def _end(self, pulses: Mapping[int, Pulse | None], to_blame: list[int]) -> None:
        text = explain(pulses, to_blame)
        with contextlib.suppress(OSError):  # a full disk does not keep a group waiting
            self._say(text, to_blame)
        sys.stderr.flush()
        os._exit(HUNG)

    def _say(self, text: str, to_blame: list[int]) -> None:
        """Once, by whichever of the waiting ranks comes first: those after it would find that one gone."""
        step = self.heart.step
        with locked(self.folder / "hang.lock"):
            said = (event for event in tail(self.events.path) if event["kind"] == "hang")
            if not any(event["step"] == step and time.time() - event["time"] < self.allowance for event in said):
                print(f"rank {self.rank}: {text}", file=sys.stderr, flush=True)
                self.events.write("hang", rank=self.rank, step=step, blamed=to_blame, text=text)


def blamed(pulses: Mapping[int, Pulse | None], waiting: frozenset[str] = WAITING) -> list[int]:
    """The ranks that the others wait for: those that do not wait themselves, or at an earlier step, or no longer, since
    their process is stopped or gone. None, where all wait at the same step."""
    steps = [pulse.step for pulse in pulses.values() if pulse is not None and pulse.phase in waiting]
    latest = max(steps, default=-1)
    return [
        rank
        for rank, pulse in pulses.items()
        if pulse is None or pulse.phase not in waiting or pulse.step < latest or fate(pulse)
    ]


def explain(pulses: Mapping[int, Pulse | None], to_blame: list[int]) -> str:
    """One sentence: who stands where since when, and who waits for it."""
    others = [rank for rank in pulses if rank not in to_blame]
    first = pulses[others[0]] if others else None
    where = f"in {first.phase} of step {first.step}" if first else "in a collective"
    if not to_blame:
        return (
            f"all ranks wait for each other {where}: the network between them is gone, or one of them "
            "takes part in another collective than the rest"
        )
    said = "; ".join(f"rank {rank} {_stands(pulses[rank])}" for rank in to_blame)
    waits = f"{_ranks(others)} {'waits' if len(others) == 1 else 'wait'} for it {where}"
    return f"{said}; {waits}"


def _stands(pulse: Pulse | None) -> str:
    if pulse is None:
        return "has not begun"
    since = max(0.0, time.time() - pulse.time)
    where = f" on {pulse.host}" if pulse.host != socket.gethostname() else ""
    process = f" (process {pulse.process} {said})" if (said := fate(pulse)) else ""
    images = f", images {pulse.ids}" if pulse.ids else ""
    return f"stands in {pulse.phase} of step {pulse.step} since {since:.0f} s{where}{process}{images}"


def fate(pulse: Pulse) -> str:
    """What the system says of a process of this machine that does not run; nothing of one that does."""
    if pulse.host != socket.gethostname():
        return ""
    try:
        status = psutil.Process(pulse.process).status()
    except psutil.Error:
        return "is gone"
    return {psutil.STATUS_ZOMBIE: "has ended", psutil.STATUS_STOPPED: "is stopped"}.get(status, "")


def _at_leisure(pulse: Pulse | None) -> bool:
    return pulse is not None and pulse.phase in AT_LEISURE and time.time() - pulse.time < ALLOWANCE


def _ranks(ranks: list[int]) -> str:
    names = ", ".join(map(str, ranks))
    return f"rank{'s' * (len(ranks) > 1)} {names}" if ranks else "nobody"
