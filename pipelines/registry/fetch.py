"""A model by its name, from the registry or a folder, as a package on this machine."""

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.errors import DataError, RunError
from pipelines.inference import package
from pipelines.registry.versions import WEIGHTS
from pipelines.tracking import Server
from pipelines.tracking.server import Unreachable

FORM = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")
WITHIN = "artifacts/package"  # of a registered version
METRICS = "metrics.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fetched:
    """A package, and what is known of it."""

    folder: Path
    name: str  # of the version, or of the folder
    metrics: Mapping[str, Any] = field(default_factory=dict)  # as it was measured, where it was


def fetch(model: str, root: Path) -> Fetched:
    """`models:/name@alias`, `models:/name/version`, or a folder: results/train, or what was downloaded of a version."""
    if not model.startswith("models:"):
        return _folder(model, root)
    if (asked := FORM.fullmatch(model)) is None:
        raise DataError(f"'{model}' names no model", do="write models:/name@alias, models:/name/version, or a folder")
    server = Server(root)
    try:
        number = asked["version"] or server.get_model_version_by_alias(asked["name"], asked["alias"]).version
        version = server.get_model_version(asked["name"], str(number))
    except Unreachable:
        raise
    except RunError as error:
        raise DataError(
            f"{model} is not in the registry: {str(error).splitlines()[0]}",
            do="register one (dvc repro), or give a folder: --model results/train",
        ) from None
    folder = root / "runs" / "models" / f"{asked['name']}-{number}"
    if not _holds(folder, version.tags.get(WEIGHTS, "")):
        _download(server, asked["name"], str(number), folder)
    return Fetched(folder=folder, name=f"{asked['name']} {number}", metrics=_metrics(folder / METRICS))


def _folder(model: str, root: Path) -> Fetched:
    folder = Path(root, model).resolve()
    folder = folder / WITHIN if (folder / WITHIN).is_dir() else folder
    weights = package.describe(folder)["weights"]["sha256"]
    beside = [folder / METRICS, folder.parent / "evaluate" / METRICS]
    measured = (found for found in map(_metrics, beside) if found.get("weights", weights) == weights and found)
    return Fetched(folder=folder, name=model, metrics=next(measured, {}))


def _holds(folder: Path, weights: str) -> bool:
    """Whether it was downloaded before: the same number in another registry is another version."""
    try:
        found: str = package.describe(folder)["weights"]["sha256"]
        return package.registered(folder).identify(found) == weights
    except DataError:
        return False


def _download(server: Server, name: str, number: str, folder: Path) -> None:
    from mlflow.artifacts import download_artifacts

    place = server.get_model_version_download_uri(name, number)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as beside:
        found = server.ask(
            download_artifacts, artifact_uri=f"{place}/{WITHIN}", dst_path=beside, tracking_uri=server.uri
        )
        files.remove(folder)
        Path(found).replace(folder)


def _metrics(path: Path) -> dict[str, Any]:
    """None are known where the file is not there, or no JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
