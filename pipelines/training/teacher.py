"""Who a student learns from: a package's model and weights, wherever the package lies. Needs no torch."""

from pathlib import Path
from typing import Any

from pipelines import files
from pipelines.config import merge
from pipelines.errors import DataError


def identified(raw: dict[str, Any]) -> dict[str, Any]:
    """The parameters as a run is known by and recorded with: the teacher's identity in place of its folder."""
    folder = raw["train"]["distill"]["teacher"]
    return raw if folder is None else merge(raw, {"train.distill.teacher": identity(Path(folder))})


def identity(folder: Path) -> str:
    try:
        description = files.read_sealed(folder / "model.json")
        return f"{description['model']['name']} {description['weights']['sha256']}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"train.distill.teacher: {folder} holds no package: {error}",
            do="name a version (models:/NAME@champion), or the folder of a package",
        ) from None
