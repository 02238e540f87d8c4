"""From a trained and measured model to a version in the registry."""

import csv
from pathlib import Path

from pipelines.config import CLASSICAL
from pipelines.errors import DataError
from pipelines.registry import card, evaluations, publish, verdicts
from pipelines.registry.candidate import IMAGES, METRICS, PAGES, Candidate
from pipelines.registry.versions import WEIGHTS, Registry
from pipelines.tracking import Run, Server, find, revision


def training_run(server: Server, root: Path, candidate: Candidate) -> Run:
    """The run that trained these weights; one made from their files where they came without it, from a DVC remote."""
    if (known := find(root, WEIGHTS, candidate.weights)) is not None:
        return Run(server, known)
    tags = {"maskline.stage": "train", "maskline.fingerprint": candidate.description["fingerprint"]}
    with Run.start(root, name="train", tags={**tags, WEIGHTS: candidate.weights, "maskline.imported": "true"}) as run:
        run.log_params(candidate.description["parameters"])
        for row in _history(candidate.folder / "history.csv"):
            run.log_metrics(row, step=int(row["epoch"]))
    return run


def publish_once(registry: Registry, run: Run, root: Path, candidate: Candidate) -> int:
    """The version of these weights, made if there is none, with what it was measured to reach."""
    version = registry.holding(candidate.identity)
    if version is None:
        version = _create(registry, run, root, candidate)
    if evaluations.outdated(registry, version, candidate.dataset, metrics=candidate.metrics):
        model = registry.model_id(version)
        measured = {**candidate.metrics, **({"cost": candidate.costs} if candidate.costs else {})}
        run.log_metrics(measured, step=candidate.description["epoch"], model_id=model)
        trained = candidate.description["dataset"]
        run.log_dataset(trained, context="training")
        held_out = {**candidate.dataset, "name": f"{trained['name']}, {candidate.dataset['split']} split"}
        run.log_dataset(held_out, context="evaluation")
    evaluations.keep(
        registry,
        version,
        candidate.dataset,
        metrics=candidate.metrics,
        images=candidate.evaluated / IMAGES,
        pages=[page for name in PAGES for page in sorted(candidate.evaluated.glob(name))],
        run=run,
    )
    return version


def _history(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read: {error}", do="dvc repro --force train") from None


def _create(registry: Registry, run: Run, root: Path, candidate: Candidate) -> int:
    description = candidate.description
    trained = registry.server.get_run(run.id).data.tags
    commit, dirty = revision(root)
    model = description["model"]
    about = {
        "maskline.task": description["task"],
        "maskline.model": model["name"] if model["name"] in CLASSICAL else f"{model['name']}, {model['encoder']}",
        "maskline.dataset": description["dataset"]["hash"],
        "maskline.dataset.name": description["dataset"]["name"],
        "maskline.fingerprint": description["fingerprint"],
        "maskline.git.commit": trained.get("mlflow.source.git.commit", commit),
        "maskline.git.dirty": trained.get("maskline.git.dirty", str(dirty).lower()),
    }
    picture = candidate.evaluated / "plots" / publish.PICTURE
    changed = " and uncommitted changes" if about["maskline.git.dirty"] == "true" else ""
    text = card.write(
        name=registry.name,
        description=description,
        metrics={**candidate.metrics, "dataset": candidate.dataset},
        commit=about["maskline.git.commit"] + changed,
        weights=candidate.identity,
        picture=publish.PICTURE if picture.is_file() else "",
        costs=candidate.costs,
    )

    def write(folder: Path, model_id: str) -> None:
        publish.write(
            folder,
            source=candidate.folder,
            card=text,
            metrics=candidate.evaluated / METRICS,
            picture=picture,
            asked=candidate.inference,
            model_id=model_id,
            run_id=run.id,
            about={**about, WEIGHTS: candidate.identity},
        )

    return registry.create(
        write,
        run=run,
        weights=candidate.identity,
        tags=about,
        params=description["parameters"],
        description=card.for_mlflow(text, publish.PICTURE, room=verdicts.REASON),
    )
