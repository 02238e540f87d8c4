"""evaluate: hold the trained model against a split of the dataset.

Reads results/ingest, results/train and the sections task, seed and evaluate.
Writes metrics.json (for `register` and `dvc metrics`), plots/ (for `dvc plots`), report.html (for people), and of each
image its score and its sums: images.csv, images.npz. What a prediction costs is in cost.json, apart from the metrics,
since it differs from run to run.
"""

import csv
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pipelines import files, stage
from pipelines.config import CLASSICAL, HEADLINE, Params
from pipelines.data.schema import ClassInfo, Manifest
from pipelines.errors import DataError, bounded
from pipelines.progress import Progress
from pipelines.stage import Paths, Summary

IOUS = (0.5, 0.75)  # whose precision is drawn


def run(params: Params, paths: Paths) -> Summary:
    import torch

    from pipelines.data.shards import ShardReader
    from pipelines.evaluation.evaluator import Detail, score
    from pipelines.evaluation.per_image import PerImage
    from pipelines.inference import cost, package
    from pipelines.inference.options import Inference
    from pipelines.loading.batch import decode
    from pipelines.metrics import detection_calibration
    from pipelines.reporting import cases, failures, figures, plots, report
    from pipelines.reporting.content import Evaluation

    predictor = package.load(
        paths.of("train"),
        device="cuda" if torch.cuda.is_available() else "cpu",
        inference=Inference.of(params.evaluate.inference.model_dump()),
    )
    reader = ShardReader(paths.of("ingest"), params.evaluate.split)
    manifest, history = reader.manifest, read_history(paths.of("train") / "history.csv")
    check(params, predictor.task, predictor.classes, manifest)

    scores: dict[str, float | None] = {}
    with Progress("evaluate", len(reader), "images") as progress:
        evaluator = score(
            predictor,
            reader,
            batch_size=params.evaluate.batch_size,
            detail=Detail(
                boundary=params.evaluate.boundary,
                edge=params.evaluate.edge,
                resamples=params.evaluate.resamples,
                seed=params.seed,
            ),
            workers=params.evaluate.workers,
            progress=progress,
            on_image=lambda _, record, value: scores.update({record.id: value}),
        )
    some = (decode(reader[i]) for i in cost.some(len(reader)))
    spent = cost.of(predictor, some, batch_size=params.evaluate.batch_size)
    metrics, semantic, instance = evaluator.compute(), evaluator.semantic, evaluator.instance
    drawn: dict[str, Any] = {
        "metrics": metrics,
        "history": history,
        "confusion": semantic and semantic.confusion,
        "precision_recall": {iou: instance.precision_recall(iou) for iou in IOUS} if instance else {},
        "calibration": evaluator.calibration.bins() if evaluator.calibration else [],
        "detection_calibration": detection_calibration.counts(instance).bins() if instance else [],
        "failures": evaluator.failures,
    }
    plots.table(paths.out / "images.csv", ["id", HEADLINE[params.task]], scores.items())
    PerImage.of(evaluator, list(scores)).write(paths.out / "images.npz")
    names = [c.name for c in manifest.classes]
    shown = list(cases.collect(predictor, reader, list(scores.values()), params.evaluate.cases))
    worst = evaluator.failures and failures.collect(evaluator.failures, predictor, reader, manifest.classes)
    evaluation = Evaluation(
        title=f"{predictor.description['model']['name']} on {manifest.name}",
        task=params.task,
        classes=manifest.classes,
        identity=identity(predictor.description, manifest),
        split=params.evaluate.split,
        scores=scores,
        cases=shown,
        failures_shown=worst or [],
        cost=spent,
        **drawn,
    )
    folder = paths.out / "plots"
    plots.write(folder, names=names, headline=HEADLINE[params.task], latencies_ms=spent.latencies_ms, **drawn)
    plots.figures(folder / "figures", figures.alone(evaluation))
    if shown:
        plots.picture(folder / "predictions.jpg", cases.sheet(shown, manifest.classes))
    files.write_text(paths.out / "report.html", report.render(evaluation))
    files.write_json(paths.out / "cost.json", spent.summary())
    dataset = {"hash": manifest.hash, "split": params.evaluate.split, "images": len(reader)}
    files.write_json(
        paths.out / "metrics.json",
        {
            **metrics,
            "dataset": dataset,
            "inference": predictor.inference.to_json(),
            "weights": predictor.description["weights"]["sha256"],
        },
    )
    headlines = {HEADLINE[view]: values[HEADLINE[view]] for view, values in metrics.items()}
    return {name: "undefined" if value is None else f"{value:.4f}" for name, value in headlines.items()}


def check(params: Params, trained: str, classes: Sequence[ClassInfo], manifest: Manifest) -> None:
    """Refuse what would give numbers that mean nothing."""
    if trained != params.task:
        raise DataError(f"the trained model does the {trained} task and task is {params.task}", do="dvc repro train")
    known, found = ([f"{c.name} ({'thing' if c.isthing else 'stuff'})" for c in t] for t in (classes, manifest.classes))
    if known != found:
        pairs = enumerate(zip_longest(known, found, fillvalue="none"))
        faults = [f"class {i}: the model has {m}, the dataset {d}" for i, (m, d) in pairs if m != d]
        what = f"the model has {len(known)} classes, the dataset {len(found)}, and they differ"
        raise DataError(what, bounded(faults), do="train on this dataset: dvc repro train")
    if not manifest.images.get(params.evaluate.split):
        raise DataError(
            f"the {params.evaluate.split} split has no images (there are {manifest.images})",
            do="set evaluate.split to another one, or dataset.splits so that it has some",
        )


def read_history(path: Path) -> dict[str, list[float | None]]:
    """The columns of history.csv; None is what an epoch did not measure, as one that was not validated."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name]) if row[name] else None for row in rows] for name in (rows[0] if rows else ())}
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}", do="dvc repro --force train") from None


def identity(description: Mapping[str, Any], manifest: Manifest) -> dict[str, str]:
    """What was held against what."""
    model, trained = description["model"], description["dataset"]
    return {
        "model": model["name"],
        "encoder": "none"
        if model["name"] in CLASSICAL
        else f"{model['encoder']}, decoder of {model['channels']} channels",
        "weights": f"sha256 {description['weights']['sha256']}, epoch {description['epoch']}",
        "trained on": f"{trained['name']} {trained['hash']}",
        "dataset": manifest.name,
        "dataset hash": manifest.hash,
        "classes": f"{len(manifest.things)} things, {len(manifest.stuff)} stuff",
        "images": ", ".join(f"{split} {count:,}" for split, count in manifest.images.items()),
    }


if __name__ == "__main__":
    stage.main("evaluate", run)
