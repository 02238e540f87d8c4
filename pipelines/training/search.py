"""The search on Ray Tune: candidates drawn from what params.yaml names, halved as they train.

A trial is a training run with other parameters and one worker, run as a plain function trainable: no worker group
inside a trial, so two cores cannot deadlock, and it costs a fourth of what Ray Train inside Tune costs.

Reproducible: the candidates are drawn from the seed before any result is known, and trials are halved only when all
have arrived, so which one is stopped never depends on which was faster (with ASHA it does).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import config
from pipelines.cluster import largest_node, use_gpu
from pipelines.config import HEADLINE
from pipelines.errors import InputError, MasklineError, RunError
from pipelines.training.balance import Balance

WORST = -1.0  # below every metric


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """How one candidate did."""

    number: int
    values: dict[str, Any]  # dotted name -> value
    score: float | None  # the primary metric on the validation split after its last epoch; None: it failed
    epochs: int
    error: str = ""


def candidates(raw: Mapping[str, Any], space: Mapping[str, Any], *, trials: int, seed: int) -> list[dict[str, Any]]:
    """The first is params.yaml itself: what it was given is held against what was drawn."""
    import numpy as np
    from ray import tune

    state = np.random.RandomState(seed)

    def draw(kind: str, values: list[Any]) -> Any:
        if kind == "choice":
            return tune.choice(values).sample(random_state=state)
        low, high = values
        value = getattr(tune, kind)(low, high).sample(random_state=state)
        # Four digits, within the range: what best.yaml says is what was run, and can be read.
        return min(max(float(f"{value:.4g}"), low), high)

    first = {name: config.get(raw, name) for name in space}
    rest = [{name: draw(*next(iter(s.items()))) for name, s in space.items()} for _ in range(trials - 1)]
    return [first, *rest]


def search(
    raw: dict[str, Any],
    drawn: list[dict[str, Any]],
    *,
    data: Path,
    state: Path,
    on_result: Callable[[int, Mapping[str, Any]], None],
    balance: Balance | None = None,
) -> list[Trial]:
    """Run a trial for each candidate; the driver calls `on_result(trial, row)` after each epoch. Ray must be up."""
    import ray
    from ray import tune

    from pipelines.training.halving import SuccessiveHalving

    params = config.parse(raw)
    settings, gpu = params.tune, use_gpu(params.train.device, workers=1)
    share = {"cpu": max(1, min(largest_node(), int(ray.cluster_resources()["CPU"]) // settings.concurrent))}
    if gpu:
        share["gpu"] = min(1.0, ray.cluster_resources()["GPU"] / settings.concurrent)

    class Listen(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            if "failure" not in result:
                on_result(result["trial"], result)

        def __reduce__(self) -> Any:  # Tune stores the callbacks with its state; this one belongs to the process
            return tune.Callback, ()

    trainable = tune.with_parameters(
        _trial, raw=raw, drawn=drawn, data=str(data), state=str(state), gpu=gpu, balance=balance
    )
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
    results = tuner.fit()
    for result in results:
        # Wrong in params.yaml itself, or in the data: no parameters that are drawn would mend it.
        if result.config["trial"] == 0 and (text := (result.metrics or {}).get("wrong_input")):
            raise InputError(text)
    return sorted((_outcome(result, drawn) for result in results), key=lambda t: t.number)


def _outcome(result: Any, drawn: list[dict[str, Any]]) -> Trial:
    number, metrics = result.config["trial"], result.metrics or {}
    error = metrics.get("failure", "")
    if result.error:  # a bug, or a worker that was lost twice
        error = repr(getattr(result.error, "cause", result.error)).splitlines()[0]
    return Trial(
        number=number,
        values=drawn[number],
        score=None if error else metrics["score"],
        epochs=metrics.get("training_iteration", 0) - ("failure" in metrics),
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
    chosen: dict[str, int],
    *,
    raw: dict[str, Any],
    drawn: list[dict[str, Any]],
    data: str,
    state: str,
    gpu: bool,
    balance: Balance | None,
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

    def report(**metrics: Any) -> None:
        # Tune pauses only what has a checkpoint; ours lies in the trial's state folder, so this one is a token.
        with tempfile.TemporaryDirectory() as token:
            tune.report({"trial": number, **metrics}, checkpoint=tune.Checkpoint.from_directory(token))

    def on_epoch(row: Row) -> None:
        report(**row, score=row[f"val_{HEADLINE[params.task]}"])

    try:
        fit(
            Job(params=params, data=Path(data), state=Path(state) / f"trial-{number}", balance=balance), group, on_epoch
        )
    except MasklineError as error:
        # Where these parameters lead is a result, and the worst: to try again would change nothing.
        wrong_input = str(error) if isinstance(error, InputError) else ""
        report(score=WORST, failure=str(error).splitlines()[0], wrong_input=wrong_input)
