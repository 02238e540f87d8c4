"""What `train` and `evaluate` have left: a model that may become champion."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import package
from pipelines.inference.options import Inference
from pipelines.inference.predictor import Predictor
from pipelines.promotion import number

METRICS, IMAGES, COSTS = "metrics.json", "images.npz", "cost.json"
# For people, where they are there: the same figures as on the page, and what a prediction cost.
PAGES = ("report.html", COSTS, "plots/predictions.jpg", "plots/figures/*.svg")
TOLERANCE = 1e-9  # of sums in another order


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """All of it, certain to belong together."""

    folder: Path  # of the package
    description: Mapping[str, Any]  # model.json
    evaluated: Path  # the folder of the evaluation
    metrics: Mapping[str, Any]  # {"panoptic": {"pq": ...}, ...}
    images: PerImage
    costs: Mapping[str, Any]  # {"latency_ms": ...}; empty where none were measured
    dataset: Mapping[str, Any]  # that the metrics were measured on: hash, split, images
    inference: Inference  # how it was asked for them

    @property
    def task(self) -> str:
        return str(self.description["task"])

    @property
    def weights(self) -> str:
        return str(self.description["weights"]["sha256"])

    @property
    def identity(self) -> str:
        """The same weights, asked in another way, are another version."""
        return self.inference.identify(self.weights)

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        return tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in self.description["classes"])

    def predictor(self) -> Predictor:
        """Asked as it was when it was measured."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return package.load(self.folder, device=device, inference=self.inference)


def read(train: Path, evaluated: Path, *, task: str) -> Candidate:
    """Both stages' results, once it is certain that they belong together and that the package can be used."""
    description = package.load(train).description
    if description["task"] != task:
        raise DataError(
            f"the trained model does the {description['task']} task and task is {task}", do="dvc repro train"
        )
    path = evaluated / METRICS
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
        folder=train,
        description=description,
        evaluated=evaluated,
        metrics=metrics,
        images=_images(evaluated / IMAGES, description, task, metrics),
        costs=_costs(evaluated / COSTS),
        dataset=dataset,
        inference=inference,
    )


def _images(path: Path, description: Mapping[str, Any], task: str, metrics: Mapping[str, Any]) -> PerImage:
    """Those that the metrics were made of, and no other's."""
    classes = [ClassInfo(**{**c, "color": tuple(c["color"])}) for c in description["classes"]]
    images = PerImage.read(path, task=task, classes=classes)
    said, found = number(metrics, f"{task}.{HEADLINE[task]}"), images.headline()
    if said is not None and (found is None or abs(said - found) > TOLERANCE):
        raise DataError(
            f"{path} gives {task}.{HEADLINE[task]} {found}, {METRICS} says {said}: they are of two evaluations",
            do="measure again: dvc repro --force evaluate",
        )
    return images


def _costs(path: Path) -> dict[str, Any]:
    try:
        costs = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}", do="measure again: dvc repro --force evaluate") from None
    if not isinstance(costs, dict):
        raise DataError(f"{path} is damaged: it holds no mapping", do="measure again: dvc repro --force evaluate")
    return costs
