"""From a trained and measured model to a version in the registry, held against the champion."""

import csv
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.config import CLASSICAL, HEADLINE
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError, InputError
from pipelines.evaluation.evaluator import evaluate
from pipelines.inference import package
from pipelines.inference.options import Inference
from pipelines.inference.predictor import Predictor
from pipelines.progress import Progress
from pipelines.promotion import number
from pipelines.registry import card, publish
from pipelines.registry.versions import WEIGHTS, Registry
from pipelines.tracking import Run, Server, find, revision


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What `train` and `evaluate` have left."""

    folder: Path  # of the package
    description: Mapping[str, Any]  # model.json
    measured: Path  # metrics.json
    metrics: Mapping[str, Any]  # {"panoptic": {"pq": ...}, ...}
    dataset: Mapping[str, Any]  # that the metrics were measured on: hash, split, images
    inference: Inference  # how it was asked for them

    @property
    def weights(self) -> str:
        return str(self.description["weights"]["sha256"])

    @property
    def identity(self) -> str:
        """The same weights, asked in another way, are another version."""
        return self.inference.identify(self.weights)

    @property
    def classes(self) -> list[tuple[str, bool]]:
        return _classes(self.description)


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """Who holds the alias, and what it reaches on the candidate's images; `obstacle` says why that is not known."""

    version: int
    weights: str
    metrics: Mapping[str, Any]
    recorded: Mapping[str, Any]  # what it has reached, by dataset and split
    how: str  # on record, measured again, not measured
    obstacle: str = ""


def read(train: Path, evaluated: Path, *, task: str) -> Candidate:
    """Both stages' results, once it is certain that they belong together and that the package can be used."""
    description = package.load(train).description
    if description["task"] != task:
        raise DataError(
            f"the trained model does the {description['task']} task and task is {task}", do="dvc repro train"
        )
    path = evaluated / "metrics.json"
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
        about, weights = metrics.pop("dataset"), metrics.pop("weights")
        dataset = {key: about[key] for key in ("hash", "split", "images")}
        inference = Inference.of(metrics.pop("inference", None))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: the model was not measured", do="dvc repro evaluate") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged: {error!r}", do="measure again: dvc repro --force evaluate") from None
    if weights != description["weights"]["sha256"]:
        raise DataError(f"{path} was measured with other weights than {train} holds", do="dvc repro evaluate")
    return Candidate(
        folder=train, description=description, measured=path, metrics=metrics, dataset=dataset, inference=inference
    )


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
    key, reached = _key(candidate.dataset), json.dumps(_headline(candidate.metrics))
    if registry.version(version).tags.get(key) != reached:
        model = registry.model_id(version)
        run.log_metrics(candidate.metrics, step=candidate.description["epoch"], model_id=model)
        registry.tag(version, {key: reached})
    return version


def champion(
    registry: Registry, holder: int | None, candidate: Candidate, *, data: Path, batch_size: int
) -> Champion | None:
    """The champion's numbers on the candidate's images: those on record, or measured now."""
    if holder is None:
        return None
    tags = registry.version(holder).tags
    recorded = {
        k.removeprefix(f"{_PREFIX}."): json.loads(v) for k, v in sorted(tags.items()) if k.startswith(f"{_PREFIX}.")
    }
    known = recorded.get(_key(candidate.dataset).removeprefix(f"{_PREFIX}."))
    standing = partial(Champion, version=holder, weights=tags.get(WEIGHTS, "unknown"), recorded=recorded)
    if known is not None:
        return standing(metrics=known, how="on record")
    with tempfile.TemporaryDirectory() as folder:
        predictor = _load(registry, holder, candidate, Path(folder))
        if isinstance(predictor, str):
            return standing(metrics={}, how="not measured", obstacle=predictor)
        metrics = _headline(_evaluate(predictor, data, candidate.dataset, batch_size))
    registry.tag(holder, {_key(candidate.dataset): json.dumps(metrics)})
    return standing(metrics=metrics, how="measured again")


_PREFIX = "maskline.metrics"


def _key(dataset: Mapping[str, Any]) -> str:
    """The tag that holds what a version reaches on these images."""
    return f"{_PREFIX}.{dataset['hash'][:16]}.{dataset['split']}"


def _headline(metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The one number of each family that promotion compares."""
    names = HEADLINE.items()
    return {family: {name: number(metrics, f"{family}.{name}")} for family, name in names if family in metrics}


def _classes(description: Mapping[str, Any]) -> list[tuple[str, bool]]:
    return [(c["name"], c["isthing"]) for c in description["classes"]]


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
    changed = " and uncommitted changes" if about["maskline.git.dirty"] == "true" else ""
    text = card.write(
        name=registry.name,
        description=description,
        metrics={**candidate.metrics, "dataset": candidate.dataset},
        commit=about["maskline.git.commit"] + changed,
        weights=candidate.identity,
    )

    def write(folder: Path, model_id: str) -> None:
        publish.write(
            folder,
            source=candidate.folder,
            card=text,
            metrics=candidate.measured,
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
        description=card.shorten(text),
    )


def _load(registry: Registry, version: int, candidate: Candidate, folder: Path) -> Predictor | str:
    """The version as a model, or why it cannot be measured on the candidate's images, and what to do."""
    who, registered = f"the champion, version {version},", registry.version(version).tags.get(WEIGHTS)
    elsewhere = "give the alias to another version, or choose another register.name"
    if registered is None:
        return f"{who} was not registered by this stage: {elsewhere}"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        predictor = package.load(registry.download(version, "artifacts/package", folder), device=device)
    except InputError as error:
        return f"{who} cannot be loaded ({str(error).splitlines()[0]}): restore its files, {elsewhere}"
    if predictor.inference.identify(predictor.description["weights"]["sha256"]) != registered:
        return f"{who} has not the weights that were registered: restore its files, {elsewhere}"
    if (known := _classes(predictor.description)) != candidate.classes:
        names = (", ".join(name for name, _ in classes) for classes in (known, candidate.classes))
        return "{} knows the classes {}, the dataset has {}: choose another register.name".format(who, *names)
    return predictor


def _evaluate(predictor: Predictor, data: Path, dataset: Mapping[str, Any], batch_size: int) -> dict[str, Any]:
    reader = ShardReader(data, dataset["split"])
    if reader.manifest.hash != dataset["hash"]:
        raise DataError(
            f"{data} holds dataset {reader.manifest.hash[:16]}, the model was measured on {dataset['hash'][:16]}",
            do="measure it again: dvc repro evaluate",
        )
    with Progress("champion", len(reader), "images") as progress:
        return evaluate(predictor, reader, batch_size=batch_size, progress=progress)
