"""The champion as the candidate's opponent: what it reaches on the candidate's images."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.data.schema import ClassInfo
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError, InputError
from pipelines.evaluation.evaluator import Detail, score
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import package
from pipelines.inference.predictor import Predictor
from pipelines.progress import Progress
from pipelines.registry import evaluations
from pipelines.registry.candidate import IMAGES, Candidate
from pipelines.registry.evaluations import Evaluation
from pipelines.registry.versions import WEIGHTS, Registry
from pipelines.tracking import Run

ELSEWHERE = "give the alias to another version (python -m stages.rollback), or choose another register.name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """How an evaluation is made again."""

    data: Path  # of the shards
    batch_size: int
    workers: int
    detail: Detail


@dataclass(frozen=True, kw_only=True, slots=True)
class Champion:
    """Who holds the alias, and what it reaches; `obstacle` says why that is not known."""

    version: int
    weights: str
    metrics: Mapping[str, Any]
    images: PerImage | None
    recorded: Mapping[str, Any]  # the headlines of what it was measured on, by dataset and split
    how: str  # on record, measured again, not measured
    predictor: Callable[[], Predictor]  # a DataError where it cannot be loaded
    obstacle: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "version": self.version,
            "weights": self.weights,
            "metrics": evaluations.headlines(self.metrics),
            "recorded": self.recorded,
            "how": self.how,
            "obstacle": self.obstacle,
        }


def meet(registry: Registry, holder: int, candidate: Candidate, measure: Measure) -> Champion:
    """The champion's numbers on the candidate's images: those on record, or measured now."""
    about = {
        "version": holder,
        "weights": registry.version(holder).tags.get(WEIGHTS, "unknown"),
        "recorded": evaluations.recorded(registry, holder),
        "predictor": lambda: load(registry, holder),
    }
    task, classes, dataset = candidate.task, candidate.classes, candidate.dataset
    if (known := evaluations.recall(registry, holder, dataset, task=task, classes=classes)) is not None:
        return Champion(**about, metrics=known.metrics, images=known.images, how="on record")
    try:
        predictor = load(registry, holder)
        _comparable(predictor, holder, candidate)
    except InputError as error:
        return Champion(**about, metrics={}, images=None, how="not measured", obstacle=str(error))
    found = _evaluate(predictor, candidate.dataset, measure)
    with tempfile.TemporaryDirectory() as folder:
        found.images.write(Path(folder) / IMAGES)
        run = Run(registry.server, registry.version(holder).run_id)
        evaluations.keep(registry, holder, dataset, metrics=found.metrics, images=Path(folder) / IMAGES, run=run)
    return Champion(**about, metrics=found.metrics, images=found.images, how="measured again")


def load(registry: Registry, version: int) -> Predictor:
    """A version's model, whose weights are those that were registered; else DataError."""
    registered = registry.version(version).tags.get(WEIGHTS)
    if registered is None:
        raise DataError(f"version {version} was not registered by this stage: {ELSEWHERE}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        try:
            predictor = package.load(registry.download(version, "artifacts/package", Path(folder)), device=device)
        except InputError as error:
            said = str(error).splitlines()[0].replace(f"{folder}/", "")
            raise DataError(f"version {version} cannot be loaded ({said}): restore its files, {ELSEWHERE}") from None
    if predictor.inference.identify(predictor.description["weights"]["sha256"]) != registered:
        raise DataError(f"version {version} has not the weights that were registered: restore its files, {ELSEWHERE}")
    return predictor


def _comparable(predictor: Predictor, version: int, candidate: Candidate) -> None:
    known, wanted = (_named(classes) for classes in (predictor.classes, candidate.classes))
    if known != wanted:
        names = (", ".join(name for name, _ in classes) for classes in (known, wanted))
        raise DataError(
            "version {} knows the classes {}, the dataset has {}: choose another register.name".format(version, *names)
        )


def _named(classes: tuple[ClassInfo, ...]) -> list[tuple[str, bool]]:
    return [(c.name, c.isthing) for c in classes]


def _evaluate(predictor: Predictor, dataset: Mapping[str, Any], measure: Measure) -> Evaluation:
    reader = ShardReader(measure.data, dataset["split"])
    if reader.manifest.hash != dataset["hash"]:
        raise DataError(
            f"{measure.data} holds dataset {reader.manifest.hash[:16]}, the model was measured on "
            f"{dataset['hash'][:16]}",
            do="measure it again: dvc repro evaluate",
        )
    ids: list[str] = []
    with Progress("champion", len(reader), "images") as progress:
        evaluator = score(
            predictor,
            reader,
            batch_size=measure.batch_size,
            detail=measure.detail,
            workers=measure.workers,
            progress=progress,
            on_image=lambda _, record, value: ids.append(record.id),
        )
    return Evaluation(metrics=evaluator.compute(), images=PerImage.of(evaluator, ids))
