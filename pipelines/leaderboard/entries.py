"""zoo.yaml: which models are compared, and what they share. Each entry is params.yaml with some values changed."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines import config, files
from pipelines.errors import ConfigError, bounded

SHARED = ("task", "seed", "dataset", "ingest", "validate", "evaluate")  # what makes two results comparable


class _Zoo(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    common: dict[str, Any]
    models: dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the table."""

    name: str
    raw: Mapping[str, Any]  # its params.yaml

    @property
    def key(self) -> str:
        """Another one for other parameters, so that a result is not mistaken for that of others."""
        return f"{self.name}-{files.digest(dict(self.raw))[:12]}"


def read(path: Path, params: Path, *, dataset: str = "") -> list[Entry]:
    """All entries, or one error that lists the faults of all."""
    try:
        zoo = _Zoo.model_validate(config.read(path))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()]
        raise ConfigError(f"{path} is no list of models", bounded(faults), "give it `common` and `models`") from None
    base = config.merge(config.read(params), {**zoo.common, "tune.trials": 0})
    if dataset:
        base = config.merge(base, {"dataset.root": dataset})
    entries, faults = [], []
    for name, changes in zoo.models.items():
        faults += [f"{name}: {n} is shared by all: set it in common" for n in changes if n.split(".")[0] in SHARED]
        raw = config.merge(base, {"model.name": name, **changes})
        try:
            config.parse(raw, name)
        except ConfigError as error:
            faults += [f"{name}: {fault}" for fault in error.faults]
        entries.append(Entry(name=name, raw=raw))
    if faults or not entries:
        raise ConfigError(f"{path}: {len(faults)} faults", bounded(faults or ["models: names none"]), f"mend {path}")
    return entries
