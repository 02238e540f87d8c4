"""Nested parameters and metrics as MLflow takes them: flat, with names and lengths that it allows."""

import json
import re
from collections.abc import Mapping
from typing import Any

# MLflow's own limits.
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, with the characters that MLflow refuses in a name replaced."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        # A slash between words makes a group on MLflow's pages; any other would be a path, which it refuses.
        name = prefix + re.sub(r"(?<!\w)/|/(?!\w)|[^\w\-. :/]", "_", str(key))
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name[:KEY_LENGTH]] = value
    return flat


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The flattened metrics that are finite numbers: MLflow sorts a NaN first, and stores no None."""
    flat = flatten(metrics)
    numeric = {k: float(v) for k, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: v for k, v in numeric.items() if abs(v) < float("inf")}


def texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Flattened parameters as they read in YAML; one that is too long keeps its start and says how long it was."""

    def text(value: Any) -> str:
        said = value if isinstance(value, str) else json.dumps(value, default=str)
        return said if len(said) <= PARAM_LENGTH else f"{said[: PARAM_LENGTH - 40]} ... {len(said)} characters"

    return {name: text(value) for name, value in flatten(params).items()}
