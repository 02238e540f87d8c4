"""What runs in a Ray worker: one trial, from where it stands, until it is done or told that it has to wait."""

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import config
from pipelines.config import HEADLINE, Params
from pipelines.errors import InputError, MasklineError
from pipelines.training import memory
from pipelines.training.balance import Balance


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all trials of a search share."""

    raw: dict[str, Any]
    data: Path
    state: Path
    gpu: bool
    balance: Balance | None = None


def parameters(raw: dict[str, Any], values: dict[str, Any], *, smaller: int = 0) -> Params:
    """A trial is the training run that these values would give, in one process: it takes the passes of all workers
    itself, which gives what they would give together. So no worker group waits inside a trial for a core that another
    one holds."""
    params = config.parse(config.merge(raw, values), "a trial's parameters")
    alone = {
        "train.epochs": raw["tune"]["epochs"],
        "train.workers": 1,
        "train.min_workers": 1,
        "train.accumulate": params.train.passes * 2**smaller,
        "train.validation": {"every": 1, "beside": False},  # what the search is told of each epoch
        "train.patience": 0,
    }
    return config.parse(config.merge(raw, {**values, **alone}), "a trial's parameters")


def micro_batch(raw: dict[str, Any], values: dict[str, Any], smaller: int) -> int:
    """Images in one forward pass."""
    train = config.merge(raw, values)["train"]
    return int(train["batch_size"] // (train["workers"] * train["accumulate"] * 2**smaller))


def run(chosen: dict[str, Any], *, setting: Setting) -> None:
    """The function that Tune calls. Where its parameters lead is a result, and so is running out of memory: what is
    raised would only come again, and is told instead."""
    number = chosen["trial"]
    state = setting.state / f"trial-{number}"
    with _alone(state) as lock:
        try:
            _train(chosen, setting, state, lock)
        except MasklineError as error:
            faults, wrong_input = (error.faults, str(error)) if isinstance(error, InputError) else ((), "")
            fcntl.flock(lock, fcntl.LOCK_UN)  # Tune may let it wait in its report
            _report(number, failure="; ".join([str(error).splitlines()[0], *faults]), wrong_input=wrong_input)
        except Exception as error:
            fcntl.flock(lock, fcntl.LOCK_UN)
            said = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            _report(number, failure=said, wrong_input="", out_of_memory=memory.ran_out(error))


def _train(chosen: dict[str, Any], setting: Setting, state: Path, lock: int) -> None:
    import torch

    from pipelines.training.job import Group, Job, Row
    from pipelines.training.loop import fit
    from pipelines.training.validation import history

    number, known = chosen["trial"], chosen["epochs"]
    params = parameters(setting.raw, chosen["values"], smaller=chosen["smaller"])

    def on_epoch(row: Row) -> None:
        # Tune lets a stint that it has stopped wait in its report until the worker is needed for another one: meanwhile
        # a third may go on with this trial.
        fcntl.flock(lock, fcntl.LOCK_UN)
        # As text: Tune would take it apart, and put its own numbers between.
        _report(number, row=json.dumps({**row, "score": row[f"val_{HEADLINE[params.task]}"]}))
        fcntl.flock(lock, fcntl.LOCK_EX)

    for row in history(state)[known:]:  # a kill came between a checkpoint and its result
        on_epoch(row)
    job = Job(params=params, data=setting.data, state=state, balance=setting.balance)
    fit(job, Group(device=torch.device("cuda" if setting.gpu else "cpu")), on_epoch)
    latency = _latency(params, setting, state)
    fcntl.flock(lock, fcntl.LOCK_UN)
    _report(number, finished=True, latency=latency)


def _latency(params: Params, setting: Setting, state: Path) -> float | None:
    if "latency" not in params.tune.objectives:
        return None
    from pipelines.data.shards import read_manifest
    from pipelines.training.search import latency

    return latency.measure(params, read_manifest(setting.data), state)


def _report(number: int, **said: Any) -> None:
    from ray import tune

    # Tune asks what it stops for a checkpoint; ours lie in the trial's state folder, so this one is a token.
    with tempfile.TemporaryDirectory() as token:
        tune.report({"trial": number, "score": 0.0, **said}, checkpoint=tune.Checkpoint.from_directory(token))


@contextmanager
def _alone(state: Path) -> Iterator[int]:
    """A worker of a driver that was killed may still train for a moment; the kernel drops the lock with it."""
    state.mkdir(parents=True, exist_ok=True)
    lock = os.open(state / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)
