"""tune: search the parameters that tune.space names, with Ray Tune.

Reads results/ingest, results/validate/balance.json where a candidate asks for class weights or repeat factors, and the
sections task, seed, model, loss, train and tune.
Writes best.yaml (what `train` merges over params.yaml; empty without trials, or where they would all be alike)
and trials.csv.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines import config, files, stage
from pipelines.config import CLASSICAL, HEADLINE, Params
from pipelines.progress import Progress
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    settings = params.tune
    if not settings.trials:
        write(paths.out, {}, [])
        return {"trials": 0}
    if params.model.name in CLASSICAL and not any(name.startswith("model.") for name in settings.space):
        write(paths.out, {}, [])
        return {"trials": 0, "because": f"{params.model.name} is not trained: nothing in tune.space matters to it"}

    from pipelines.cluster import cluster
    from pipelines.data.shards import read_manifest
    from pipelines.training import balance, search
    from pipelines.training.fingerprint import fingerprint, with_absolute_weights
    from pipelines.training.monitor import Monitor

    raw = with_absolute_weights(config.read(paths.root / "params.yaml"), paths.root)
    drawn = search.candidates(raw, settings.space, trials=settings.trials, seed=params.seed)
    dataset = read_manifest(paths.of("ingest")).hash
    wanted = [config.parse(config.merge(raw, values)) for values in drawn]
    balanced = balance.read(paths.of("validate") / "balance.json", dataset, wanted)
    known_by = fingerprint(raw, dataset, balanced)
    state = paths.runs / f"tune-{known_by[:16]}"
    files.remove(state)
    metric = HEADLINE[params.task]
    progress = Progress("tune", settings.trials * settings.epochs, "epochs at most")
    epochs = 0
    best = 0.0

    def told(number: int, row: Mapping[str, Any]) -> None:
        nonlocal best, epochs
        epochs += 1
        best = max(best, row["score"])
        progress.update(epochs, f"trial {number}  {metric} {row['score']:.3f}  best {best:.3f}")
        said = {k: v for k, v in row.items() if k == "train_loss" or k.startswith(("loss_", "val_"))}
        monitor.metrics(said, step=row["epoch"], child=f"trial-{number}")

    tags = {"maskline.stage": "tune", "maskline.fingerprint": known_by}
    children = {f"trial-{number}": values for number, values in enumerate(drawn)}
    # The monitor ends before Ray does: a thread that still imports or opens a database while Ray shuts down can take
    # the process with it, without a word.
    with (
        cluster(cpus=settings.concurrent),
        Monitor(paths.root, name="tune", params=raw, tags=tags, children=children) as monitor,
        progress,
    ):
        trials = search.search(raw, drawn, data=paths.of("ingest"), state=state, on_result=told, balance=balanced)
        winner = search.best(trials)
        monitor.metrics({f"best_{metric}": winner.score or 0.0}, step=0)
    write(paths.out, winner.values, trials)
    files.remove(state)
    return {"trials": len(trials), "best": f"trial {winner.number}", metric: f"{winner.score:.3f}"}


def write(out: Path, best: Mapping[str, Any], trials: list[Any]) -> None:
    files.write_yaml(out / "best.yaml", config.nest(best))
    with files.replacing(out / "trials.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["trial", *best, "score", "epochs", "error"])
        for trial in trials:
            writer.writerow([trial.number, *trial.values.values(), trial.score, trial.epochs, trial.error])


if __name__ == "__main__":
    stage.main("tune", run)
