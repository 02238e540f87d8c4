"""tune: search the parameters that tune.space names, with Ray Tune; gone on with where an interrupted search of the
same inputs stood.

Reads results/ingest, results/validate/balance.json where a candidate asks for class weights or repeat factors, and the
sections task, seed, model, loss, train and tune.
Writes best.yaml (what `train` merges over params.yaml; empty without trials, or where they would all be alike),
trials.csv and report.html.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from pipelines import config, files, stage
from pipelines.config import CLASSICAL, HEADLINE, Params
from pipelines.progress import Progress
from pipelines.reporting import search as reporting
from pipelines.stage import Paths, Summary

KEPT = 3  # interrupted searches that can be gone on with
NO_MATTER = ("concurrent", "resources")  # to what a search finds: one that was interrupted may be given more


def run(params: Params, paths: Paths) -> Summary:
    settings, metric = params.tune, HEADLINE[params.task]
    if not settings.trials:
        return _nothing(paths, metric, "tune.trials is 0")
    if params.model.name in CLASSICAL and not any(name.startswith("model.") for name in settings.space):
        return _nothing(paths, metric, f"{params.model.name} is not trained: nothing in tune.space matters to it")

    from pipelines.cluster import cluster, sharing
    from pipelines.data.shards import read_manifest
    from pipelines.registry.teacher import with_teacher
    from pipelines.training import balance
    from pipelines.training.fingerprint import fingerprint, with_absolute_weights
    from pipelines.training.search import outcome, run
    from pipelines.training.search.importance import importance
    from pipelines.training.search.record import Record
    from pipelines.training.search.wanted import wanted
    from pipelines.training.teacher import identified
    from pipelines.training.watching.monitor import Monitor
    from pipelines.training.workers import shared

    raw = with_teacher(with_absolute_weights(config.read(paths.root / "params.yaml"), paths.root), paths.root)
    dataset = read_manifest(paths.of("ingest")).hash
    balanced = balance.read(paths.of("validate") / "balance.json", dataset, wanted(raw, params))
    searched = {name: value for name, value in raw["tune"].items() if name not in NO_MATTER}
    known_by = files.digest(fingerprint(raw, dataset, balanced), searched)
    state = paths.runs / f"tune-{known_by[:16]}"
    files.touch(state)
    files.keep_newest(paths.runs, "tune-*", KEPT)
    progress, best = Progress("tune", settings.trials * settings.epochs, "epochs at most"), 0.0
    epochs = 0

    def told(record: Record, row: Mapping[str, Any]) -> None:
        nonlocal best, epochs
        epochs, best = epochs + 1, max(best, row["score"])
        progress.update(epochs, f"trial {record.number}  {metric} {row['score']:.3f}  best {best:.3f}")
        child = f"trial-{record.number}"
        monitor.child(child, record.drawn)
        said = {k: v for k, v in row.items() if k == "train_loss" or k.startswith(("loss_", "val_"))}
        monitor.metrics(said, step=int(row["epoch"]), child=child)

    def ended(record: Record) -> None:
        child = f"trial-{record.number}"
        monitor.child(child, record.drawn)  # one that failed has said nothing yet
        monitor.end(child, "FAILED" if record.status == "failed" else "FINISHED")

    tags = {"maskline.stage": "tune", "maskline.fingerprint": known_by}
    # The monitor ends before Ray does: a thread that still imports or opens a database while Ray shuts down can take
    # the process with it, without a word.
    with (
        cluster(cpus=run.tokens(settings)),
        Monitor(paths.root, state, name="tune", params=identified(raw), tags=tags) as monitor,
        progress,
    ):
        sharing.check(shared.of(paths.of("ingest"), state))
        trials = run.search(raw, data=paths.of("ingest"), state=state, on_result=told, on_end=ended, balance=balanced)
        winner = outcome.best(trials, settings.max_latency)
        monitor.metrics({f"best_{metric}": winner.score or 0.0}, step=0)
    files.write_yaml(paths.out / "best.yaml", config.nest(outcome.parameters(winner, params.train.accumulate)))
    front = outcome.front(trials)
    reporting.write(
        paths.out,
        reporting.Search(
            metric=metric,
            about=f"{settings.sampler} sampler, {settings.scheduler} scheduler, {settings.epochs} epochs",
            names=tuple(settings.space),
            logarithmic=tuple(name for name, space in settings.space.items() if any("log" in key for key in space)),
            trials=[_trial(record, record.number in front) for record in trials],
            winner=winner.number,
            importance=importance(trials, settings.space),
        ),
    )
    paths.finished.append(partial(files.remove, state))
    return {"trials": len(trials), "best": f"trial {winner.number}", metric: f"{winner.score:.3f}"}


def _nothing(paths: Paths, metric: str, because: str) -> Summary:
    files.write_yaml(paths.out / "best.yaml", {})
    reporting.write(paths.out, reporting.Search(metric=metric, about=because))
    return {"trials": 0, "because": because}


def _trial(record: Any, on_front: bool) -> reporting.Trial:
    return reporting.Trial(
        number=record.number,
        values=record.values,
        score=record.score,
        curve=[(row["epoch"] + 1, row["score"]) for row in record.rows],
        status=record.status,
        error=record.error,
        notes="; ".join(record.notes),
        latency=record.latency,
        on_front=on_front,
    )


if __name__ == "__main__":
    stage.main("tune", run)
