"""Where the time of a training goes: seconds per phase, of an epoch and of the run, of one rank and of all.

A lap ends what has run since the lap before, so nothing is counted twice and nothing is lost: what no lap names is
`other`. On a GPU the clock is the device's (a pair of events around each phase, read at the epoch's end), since the
processor runs ahead of it, and to wait for it in each phase would be what makes the training slow.
"""

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.progress import clock

PHASES = ("data", "forward", "backward", "communication", "update", "checkpoint", "validation", "other")
PENDING = 4096  # laps on the device that are kept before the older ones are read
BAR = 30  # characters
Seconds = dict[str, float]  # by phase


class Timer:
    """One rank's clock. `cuda`: the current stream of the current device."""

    def __init__(self, *, cuda: bool = False):
        self.epoch: Seconds = dict.fromkeys(PHASES, 0.0)
        self.total: Seconds = dict.fromkeys(PHASES, 0.0)  # of the epochs before
        self.device = _DeviceLaps(self.epoch) if cuda else None
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What has run since the last lap was `name`."""
        if self.device is not None:
            self.device.lap(name)
            return
        now = time.perf_counter()
        self.epoch[name] += now - self.last
        self.last = now

    def end_epoch(self) -> dict[str, Seconds]:
        """The seconds of the epoch that ends here and of the run, and what memory it took: for `report`, which wants
        all ranks'."""
        self.lap("other")
        ended = self._read()
        for name in PHASES:
            self.total[name] += ended[name]
            self.epoch[name] = 0.0
        return {"epoch": ended, "total": dict(self.total), "memory": memory(cuda=self.device is not None)}

    def state_dict(self) -> dict[str, Seconds]:
        return {"epoch": self._read(), "total": dict(self.total)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]], *, over: bool = False) -> None:
        """Go on from there; what has run in this process is added. `over`: the epoch of the state was at its end."""
        for name in PHASES:
            (self.total if over else self.epoch)[name] += state["epoch"][name]
            self.total[name] += state["total"][name]

    def _read(self) -> Seconds:
        if self.device is not None:
            self.device.read()
        return dict(self.epoch)


class _DeviceLaps:
    """Laps as events on the device's stream; not read before they have happened."""

    def __init__(self, seconds: Seconds):
        self.seconds = seconds
        self.laps: list[tuple[str, Any]] = [("", self._event())]

    def lap(self, name: str) -> None:
        self.laps.append((name, self._event()))
        if len(self.laps) > PENDING and self.laps[PENDING // 2][1].query():
            self._sum(PENDING // 2)

    def read(self) -> None:
        self.laps[-1][1].synchronize()
        self._sum(len(self.laps) - 1)

    def _sum(self, count: int) -> None:
        for (_, before), (name, after) in zip(self.laps[:count], self.laps[1 : count + 1], strict=True):
            self.seconds[name] += before.elapsed_time(after) / 1000
        del self.laps[:count]

    def _event(self) -> Any:
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def merge(ranks: Sequence[Mapping[str, float]]) -> Seconds:
    """The seconds of all ranks together."""
    return {name: sum(rank[name] for rank in ranks) for name in PHASES}


def slowest(ranks: Sequence[Mapping[str, float]]) -> int:
    """The rank for which the others wait: that which waits least for them."""
    own = [sum(rank.values()) - rank["communication"] for rank in ranks]
    return own.index(max(own))


def shares(seconds: Mapping[str, float]) -> Seconds:
    """Of all seconds, by phase."""
    total = sum(seconds.values())
    return {name: seconds[name] / total if total else 0.0 for name in PHASES}


def metrics(ranks: Sequence[Mapping[str, float]], *, images: int) -> dict[str, float]:
    """An epoch in numbers, for MLflow: `time/` in seconds per rank. Validation and checkpoints do not slow down what
    images per second tell of."""
    mean = {name: seconds / len(ranks) for name, seconds in merge(ranks).items()}
    training = sum(mean.values()) - mean["validation"] - mean["checkpoint"]
    return {
        **{f"time/{name}": seconds for name, seconds in mean.items()},
        "data_wait_share": mean["data"] / training if training else 0.0,
        "images_per_second": images / training if training else 0.0,
    }


def report(ranks: Sequence[Mapping[str, Any]], *, images: int) -> dict[str, Any]:
    """An epoch's `timing` event, of what each rank's `Timer.end_epoch` gave."""
    peaks = {name: max(rank["memory"][name] for rank in ranks) for name in ranks[0]["memory"]}
    return {
        "metrics": {**metrics([rank["epoch"] for rank in ranks], images=images), **peaks},
        "ranks": [rank["total"] for rank in ranks],
    }


def memory(*, cuda: bool = False) -> dict[str, float]:
    """This process's peaks so far, in GiB."""
    unit = 1 if sys.platform == "darwin" else 2**10
    found = {"memory/rss_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
    if cuda:
        import torch

        found["memory/cuda_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def table(ranks: Sequence[Mapping[str, float]]) -> str:
    """Where the time went, for people."""
    together, count = merge(ranks), len(ranks)
    each = clock(sum(together.values()) / count)
    who = f"{count} workers, {each} each; rank {slowest(ranks)} was the slowest" if count > 1 else each
    rows = [
        f"  {name:<14}{clock(together[name] / count):>8}{share:>8.1%}  {'#' * round(BAR * share)}".rstrip()
        for name, share in shares(together).items()
    ]
    return "\n".join([f"where the time went ({who})", *rows])
