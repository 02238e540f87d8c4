"""train: data-parallel training on Ray Train, resumed where an interrupted run of the same inputs stood.

Reads results/ingest, results/tune/best.yaml (merged over params.yaml) and the sections task, seed, model, loss, train.
Writes model.safetensors and model.json (the epoch that did best on the validation split) and history.csv.
"""

from pipelines import config, files, stage
from pipelines.config import HEADLINE, Params
from pipelines.progress import Progress
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.data.shards import read_manifest
    from pipelines.training import distributed, result
    from pipelines.training.cluster import cluster, use_gpu
    from pipelines.training.events import Event, Follower
    from pipelines.training.monitor import Monitor

    raw = config.with_overrides(config.read(paths.root / "params.yaml"), paths.of("tune") / "best.yaml")
    params = config.parse(raw, "params.yaml with results/tune/best.yaml over it")
    data, epochs = paths.of("ingest"), params.train.epochs
    fingerprint = result.fingerprint(raw, read_manifest(data).hash)
    state = paths.runs / f"train-{fingerprint[:16]}"
    metric = HEADLINE[params.task]
    progress, best = Progress("train", 0, "steps"), [0.0]

    def told(event: Event) -> None:
        if event["kind"] == "step":
            note = f"epoch {event['epoch'] + 1}/{epochs}  loss {event['loss']:.3f}  best {metric} {best[0]:.3f}"
            progress.update(event["step"], note, total=event["steps"])
        elif event["kind"] == "epoch":
            best[0] = max(best[0], event[f"val_{metric}"])
            monitor.metrics({k: v for k, v in event.items() if k not in ("kind", "time")}, step=event["epoch"])

    tags = {"maskline.stage": "train", "maskline.fingerprint": fingerprint}
    with (
        Monitor(paths.root, name="train", params=raw, tags=tags) as monitor,
        cluster(cpus=params.train.workers),
        progress,
        Follower(state / "events.jsonl", told),
    ):
        distributed.train(raw, data=data, state=state, fingerprint=fingerprint, gpu=use_gpu(params.train.device))
        result.take(state, paths.out)
        monitor.tag({"maskline.weights": files.sha256(paths.out / "model.safetensors")})
    files.remove(state)
    return {"epochs": epochs, f"best val {metric}": f"{best[0]:.3f}"}


if __name__ == "__main__":
    stage.main("train", run)
