"""Class weights and repeat factors as `validate` found them, for the parameters that ask for them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import Params
from pipelines.errors import DataError

REDO = "dvc repro validate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """Of the training split's classes, in their order."""

    class_weights: dict[str, list[float]]  # by the name of their scheme
    repeat_factors: list[float]


def asked(params: Params) -> bool:
    schemes = {loss.get("class_weights", "none") for loss in params.loss.semantic.weighted().values()}
    return params.train.sampling == "repeat_factor" or bool(schemes - {"none"})


def read(path: Path, dataset: str, wanted: Iterable[Params]) -> Balance | None:
    """balance.json of the dataset with this hash; None, and the file is left alone, where none of `wanted` asks."""
    if not any(map(asked, wanted)):
        return None
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        of, rows = said["dataset"], said["classes"]
        schemes = rows[0]["weights"] if rows else ()
        found = Balance(
            class_weights={scheme: [float(row["weights"][scheme]) for row in rows] for scheme in schemes},
            repeat_factors=[float(row["repeat_factor"]) for row in rows],
        )
    except FileNotFoundError:
        raise DataError(f"{path} is missing, which holds class weights and repeat factors", do=REDO) from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}", do=f"{REDO} --force") from None
    if of != dataset:
        raise DataError(f"{path} is of another dataset ({of[:12]}) than results/ingest ({dataset[:12]})", do=REDO)
    return found
