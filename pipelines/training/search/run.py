"""The search on Ray Tune, which gives each trial its worker: no sooner than CPU, GPU and memory are there for it.

To Tune a trial of ours is one or more trials of its own, its stints: it is started, and ends when it is done or when it
has to wait for others. What goes on next is the board's to say, so that to go on after a kill, after a worker was lost
or after memory ran out is what happens all the time. Workers are used again, stint after stint.
"""

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipelines import config, files
from pipelines.cluster.room import use_gpu
from pipelines.config import Params
from pipelines.config.tune import Tune
from pipelines.errors import ConfigError, InputError
from pipelines.training.balance import Balance
from pipelines.training.search import samplers, schedulers, stint
from pipelines.training.search.board import Board
from pipelines.training.search.record import Record

GIB = 2**30


def search(
    raw: dict[str, Any],
    *,
    data: Path,
    state: Path,
    on_result: Callable[[Record, Mapping[str, float]], None] = lambda record, row: None,
    on_end: Callable[[Record], None] = lambda record: None,
    balance: Balance | None = None,
    sampler: samplers.Sampler | None = None,
) -> list[Record]:
    """All trials, by number; those of an earlier search in `state` are kept or gone on with. Ray must be up."""
    params = config.parse(raw)
    settings = params.tune
    board = Board(
        state,
        schedulers.build(settings, seed=params.seed),
        sampler or samplers.build(raw, params),
        concurrent=settings.concurrent,
        on_result=on_result,
        on_end=on_end,
    )
    gpu = use_gpu(params.train.device, 1, 1)
    setting = stint.Setting(raw=raw, data=data, state=state, gpu=gpu, balance=balance)
    if not board.over:
        _run(board, setting, _share(params, gpu=gpu))
    return [board.records[number] for number in sorted(board.records)]


def tokens(settings: Tune) -> int:
    """Of CPUs, for a Ray of our own: for all trials that may run at a time, and no more than the machine has."""
    return max(1, min(math.ceil(settings.concurrent * settings.resources.cpu), len(os.sched_getaffinity(0))))


def _run(board: Board, setting: stint.Setting, share: Mapping[str, float]) -> None:
    from ray import tune

    from pipelines.training.search.stints import Stints, Turns

    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # tables and TensorBoard, which nobody reads
    files.remove(setting.state / "ray")  # of a search that was killed: the journal says more
    turns = Turns(board, setting.raw)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(stint.run, setting=setting), dict(share)),
        tune_config=tune.TuneConfig(
            metric="score", mode="max", num_samples=-1, reuse_actors=True, search_alg=Stints(board), scheduler=turns
        ),
        run_config=tune.RunConfig(name="tune", storage_path=str(setting.state / "ray"), verbose=0),
    )
    tuner.fit()
    if turns.wrong_input:
        raise InputError(turns.wrong_input)


def _share(params: Params, *, gpu: bool) -> dict[str, float]:
    """What Ray sets aside for a trial; what no node has, it would wait for for ever."""
    import ray

    asked = params.tune.resources
    share = {"CPU": asked.cpu, "memory": asked.memory * GIB}
    if gpu and asked.gpu:
        share["GPU"] = asked.gpu
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0) >= much for name, much in share.items()) for node in nodes):
        most = {name: max(node.get(name, 0) for node in nodes) for name in share}
        has = f"{most['CPU']:g} CPUs, {most['memory'] / GIB:.1f} GiB" + f", {most.get('GPU', 0):g} GPUs" * gpu
        wants = f"{asked.cpu:g} CPUs, {asked.memory:g} GiB" + f", {asked.gpu:g} GPUs" * gpu
        raise ConfigError(f"no machine can hold a trial: it asks for {wants}, and at most there are {has}",
                          do="lower tune.resources")  # fmt: skip
    return {name.lower() if name != "memory" else name: much for name, much in share.items()}
