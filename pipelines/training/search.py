"""The search on Ray Tune: candidates drawn from what params.yaml names, halved as they train.

A trial is a training run with other parameters and one worker, run as a plain function trainable: no worker group
inside a trial, so two cores cannot deadlock, and it costs a fourth of what Ray Train inside Tune costs.

Reproducible: the candidates are drawn from the seed before any result is known, and trials are halved only when all
have arrived, so which one is stopped never depends on which was faster (with ASHA it does).
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import config
from pipelines.config import HEADLINE
from pipelines.errors import RunError
from pipelines.training.cluster import use_gpu


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """How one candidate did."""

    number: int
    values: dict[str, Any]  # dotted name -> value
    score: float | None  # the primary metric on the validation split after its last epoch; None: it failed
    epochs: int
    error: str = ""


def candidates(raw: Mapping[str, Any], space: Mapping[str, Any], *, trials: int, seed: int) -> list[dict[str, Any]]:
    """The first is params.yaml itself, so that a search never ends with something worse than it was given."""
    import numpy as np
    from ray import tune

    domains = {}
    for name, values in space.items():
        kind, bounds = next(iter(values.items()))
        domains[name] = tune.choice(bounds) if kind == "choice" else getattr(tune, kind)(*bounds)
    draw = np.random.RandomState(seed)
    first = {name: config.get(raw, name) for name in space}
    # Four digits: what best.yaml says is what was run, and can be read.
    rest = [{n: _rounded(d.sample(random_state=draw)) for n, d in domains.items()} for _ in range(trials - 1)]
    return [first, *rest]


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def search(
    raw: dict[str, Any],
    drawn: list[dict[str, Any]],
    *,
    data: Path,
    state: Path,
    on_result: Callable[[int, Mapping[str, Any]], None],
) -> list[Trial]:
    """Run a trial for each candidate; the driver calls `on_result(trial, row)` after each epoch. Ray must be up."""
    import ray
    from ray import tune

    from pipelines.training.halving import SuccessiveHalving

    params = config.parse(raw)
    settings, gpu = params.tune, use_gpu(params.train.device)
    share = {"cpu": max(1, int(ray.cluster_resources()["CPU"]) // settings.concurrent)}
    if gpu:
        share["gpu"] = min(1.0, ray.cluster_resources()["GPU"] / settings.concurrent)

    class Listen(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            on_result(result["trial"], result)

        def __reduce__(self) -> Any:  # Tune stores the callbacks with its state; this one belongs to the process
            return tune.Callback, ()

    trainable = tune.with_parameters(_trial, raw=raw, drawn=drawn, data=str(data), state=str(state), gpu=gpu)
    tuner = tune.Tuner(
        tune.with_resources(trainable, share),
        param_space={"trial": tune.grid_search(list(range(len(drawn))))},
        tune_config=tune.TuneConfig(
            metric="score",
            mode="max",
            reuse_actors=True,
            scheduler=SuccessiveHalving(
                trials=len(drawn),
                epochs=settings.epochs,
                grace=settings.grace_epochs,
                reduction_factor=settings.reduction_factor,
            ),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(state / "ray"),
            verbose=0,
            callbacks=[Listen()],
            failure_config=tune.FailureConfig(max_failures=1),
        ),
    )
    outcomes = [_outcome(result, drawn) for result in tuner.fit()]
    return sorted(outcomes, key=lambda t: t.number)


def _outcome(result: Any, drawn: list[dict[str, Any]]) -> Trial:
    number, metrics = result.config["trial"], result.metrics or {}
    error = str(result.error).strip().splitlines()[-1] if result.error else ""
    return Trial(
        number=number,
        values=drawn[number],
        score=None if error else metrics["score"],
        epochs=metrics.get("training_iteration", 0),
        error=error,
    )


def best(trials: list[Trial]) -> Trial:
    """The highest score among those that ran longest (the others were stopped for a lower one), the first of equals."""
    done = [t for t in trials if t.score is not None]
    if not done:
        raise RunError(f"every trial failed; the first one: {trials[0].error}\ndo: narrow tune.space")
    longest = max(t.epochs for t in done)
    return max((t for t in done if t.epochs == longest), key=lambda t: (t.score, -t.number))


def _trial(
    chosen: dict[str, int], *, raw: dict[str, Any], drawn: list[dict[str, Any]], data: str, state: str, gpu: bool
) -> None:
    """One candidate, in a Ray worker; paused while it waits for the others, it goes on from its own checkpoint."""
    import tempfile

    import torch
    from ray import tune

    from pipelines.training.loop import Group, Job, Row, fit

    number = chosen["trial"]
    changed = {**drawn[number], "train.epochs": raw["tune"]["epochs"], "train.workers": 1}
    params = config.parse(config.merge(raw, changed))

    group = Group(device=torch.device("cuda" if gpu else "cpu"))

    def report(row: Row) -> None:
        # Tune pauses only what has a checkpoint; ours lies in the trial's state folder, so this one is a token.
        with tempfile.TemporaryDirectory() as token:
            (Path(token) / "epoch.json").write_text(json.dumps(row["epoch"]))
            metrics = {**row, "trial": number, "score": row[f"val_{HEADLINE[params.task]}"]}
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(token))

    fit(Job(params=params, data=Path(data), state=Path(state) / f"trial-{number}"), group, on_epoch=report)
