"""What a version reaches on a dataset's split: kept with its run, and believed only when the hashes are those that the
version's tag says.

The files come first, under a name that is their hash; the tag last. A kill in between leaves files that nothing names.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError, RunError
from pipelines.evaluation.per_image import PerImage
from pipelines.promotion import number
from pipelines.registry.candidate import IMAGES, METRICS
from pipelines.registry.versions import Registry
from pipelines.tracking import Run, Unreachable

# How the tags begin; the dataset's key follows: what programs read, and what people do.
HEADLINES, RECORDS, SENTENCES = "maskline.metrics", "maskline.evaluation", "maskline.measured"
FOLDER = "evaluations"


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """Of one version on one split."""

    metrics: Mapping[str, Any]
    images: PerImage


def key(dataset: Mapping[str, Any]) -> str:
    """Which images: two datasets of one hash have the same ones."""
    return f"{dataset['hash'][:16]}.{dataset['split']}"


def headlines(metrics: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """The one number of each family."""
    names = HEADLINE.items()
    return {family: {name: number(metrics, f"{family}.{name}")} for family, name in names if family in metrics}


def sentence(metrics: Mapping[str, Any], dataset: Mapping[str, Any]) -> str:
    """The same for people, with intervals."""
    said = []
    for family, values in headlines(metrics).items():
        for name, value in values.items():
            ends = metrics[family].get("intervals", {}).get(name)
            interval = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
            said.append(f"{name} {'undefined' if value is None else f'{value:.4f}'}{interval}")
    return f"{', '.join(said)} on {dataset['images']} images of the {dataset['split']} split of {dataset['hash'][:16]}"


def recorded(registry: Registry, version: int) -> dict[str, Any]:
    """The headlines of all that a version was measured on."""
    tags = sorted(registry.version(version).tags.items())
    return {k.removeprefix(f"{HEADLINES}."): json.loads(v) for k, v in tags if k.startswith(f"{HEADLINES}.")}


def outdated(registry: Registry, version: int, dataset: Mapping[str, Any], *, metrics: Mapping[str, Any]) -> bool:
    """Whether the version's headlines on these images are others, or none yet."""
    held = registry.version(version).tags.get(f"{HEADLINES}.{key(dataset)}")
    return bool(held != json.dumps(headlines(metrics)))


def keep(
    registry: Registry,
    version: int,
    dataset: Mapping[str, Any],
    *,
    metrics: Mapping[str, Any],
    images: Path,
    pages: Sequence[Path] = (),
    run: Run,
) -> None:
    """Upload what was measured, with `pages` for people, unless that is what is kept already."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        files.write_text(
            made / METRICS, json.dumps(metrics, indent=2) + "\n"
        )  # whatever it holds: a NaN is refused later
        shutil.copyfile(images, made / IMAGES)
        hashes = {name: files.sha256(made / name) for name in (METRICS, IMAGES)}
        place = f"{FOLDER}/{key(dataset)}-{files.digest(hashes)[:8]}"
        record = json.dumps({"folder": place, **hashes})
        tags = registry.version(version).tags
        if tags.get(f"{RECORDS}.{key(dataset)}") != record:
            for page in pages:
                shutil.copyfile(page, made / page.name)
            run.artifacts(made, place)
            registry.tag(version, {f"{RECORDS}.{key(dataset)}": record})
    if outdated(registry, version, dataset, metrics=metrics):
        registry.tag(version, {f"{SENTENCES}.{key(dataset)}": sentence(metrics, dataset)})
        registry.tag(version, {f"{HEADLINES}.{key(dataset)}": json.dumps(headlines(metrics))})


def recall(
    registry: Registry, version: int, dataset: Mapping[str, Any], *, task: str, classes: Sequence[ClassInfo]
) -> Evaluation | None:
    """What is kept; None where nothing is, or not what the tag says: then it has to be measured again."""
    kept = registry.version(version)
    record = kept.tags.get(f"{RECORDS}.{key(dataset)}")
    if record is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            wanted = json.loads(record)
            found = Path(registry.server.download_artifacts(kept.run_id, wanted["folder"], folder))
            if any(files.sha256(found / name) != wanted[name] for name in (METRICS, IMAGES)):
                return None
            metrics = json.loads((found / METRICS).read_text(encoding="utf-8"))
            return Evaluation(metrics=metrics, images=PerImage.read(found / IMAGES, task=task, classes=classes))
        except Unreachable:
            raise
        except (RunError, DataError, OSError, ValueError, KeyError, TypeError):
            return None
