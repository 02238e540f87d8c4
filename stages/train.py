"""train: data-parallel training on Ray Train, resumed where an interrupted run of the same inputs stood.

Reads results/ingest, results/tune/best.yaml (merged over params.yaml), results/validate/balance.json where class
weights or repeat factors are asked for, and the sections task, seed, model, loss, train.
Writes model.safetensors and model.json (the epoch that did best on the validation split) and history.csv.
"""

import sys
from functools import partial

from pipelines import config, files, stage
from pipelines.config import CLASSICAL, HEADLINE, Params
from pipelines.progress import Progress
from pipelines.stage import Paths, Summary

KEPT = 3  # interrupted runs that can be resumed


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.cluster import cluster
    from pipelines.data.shards import read_manifest
    from pipelines.registry.teacher import with_teacher
    from pipelines.training import balance, distributed
    from pipelines.training.fingerprint import fingerprint, with_absolute_weights
    from pipelines.training.teacher import identified
    from pipelines.training.watching.events import EventLog, Follower
    from pipelines.training.watching.monitor import Monitor
    from pipelines.training.watching.reporter import Reporter

    raw = config.with_overrides(config.read(paths.root / "params.yaml"), paths.of("tune") / "best.yaml")
    params = config.parse(raw, "params.yaml with results/tune/best.yaml over it")
    data, metric = paths.of("ingest"), HEADLINE[params.task]
    fitted = params.model.name in CLASSICAL  # at once, without steps or losses
    epochs = 1 if fitted else params.train.epochs
    raw = with_teacher(with_absolute_weights(raw, paths.root), paths.root)
    dataset = read_manifest(data).hash
    balanced = balance.read(paths.of("validate") / "balance.json", dataset, [params])
    known_by = fingerprint(raw, dataset, balanced)
    state = paths.runs / f"train-{known_by[:16]}"
    files.touch(state)
    files.keep_newest(paths.runs, "train-*", KEPT)
    progress = Progress("train", 0, "steps")
    tags = {"maskline.stage": "train", "maskline.fingerprint": known_by}
    events = EventLog(state / "events.jsonl")
    events.mark("parameters read")
    with (  # the monitor ends before Ray does, as in `tune`
        cluster(cpus=params.train.workers + params.train.validation.beside),
        Monitor(paths.root, state, name="train", params=identified(raw), tags=tags) as monitor,
        progress,
        Follower(events.path, reporter := Reporter(progress, monitor, metric=metric, epochs=0 if fitted else epochs)),
    ):
        events.mark("Ray started")
        distributed.train(raw, data=data, state=state, fingerprint=known_by, balance=balanced)
        from pipelines.training import result  # needs torch and all of the loop, which training did not wait for

        description = result.take(state, paths.out)
        monitor.tag({"maskline.weights": description["weights"]["sha256"]})
    if table := reporter.table():
        print(table, file=sys.stderr, flush=True)
    paths.finished.append(partial(files.remove, state))
    return {
        "best epoch": f"{description['epoch'] + 1} of {epochs}",
        f"val {metric}": f"{description['metrics'][f'val_{metric}']:.3f}",
    }


if __name__ == "__main__":
    stage.main("train", run)
