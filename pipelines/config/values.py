"""YAML as plain values: read, addressed by dotted names, merged."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from pipelines.errors import ConfigError


class Loader(yaml.SafeLoader):
    """YAML as DVC reads it: `1e-4` is a number (PyYAML's YAML 1.1 makes it a string), a repeated key is a fault."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is there twice", key.start_mark)
            seen.add(name)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def read(path: Path) -> dict[str, Any]:
    """The file as plain values, not yet checked."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 - a SafeLoader
    except FileNotFoundError:
        stage = path.parent.name
        do = f"dvc repro {stage}" if path.parent.parent.name == "results" else "run from the folder that holds it"
        raise ConfigError(f"{path} is missing", do=do) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # `!!int x` is PyYAML's ValueError
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold sections, got {type(raw).__name__}")
    return raw


def with_overrides(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """`raw` with the values of a file such as results/tune/best.yaml over it."""
    return merge(raw, flatten(read(path)))


def merge(raw: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """`raw` with the dotted names in `overrides` set: {"train.learning_rate": 0.1}."""
    merged: dict[str, Any] = _copy(raw)
    for name, value in overrides.items():
        *path, last = name.split(".")
        at = merged
        for key in path:
            if not isinstance(at.get(key), dict):
                at[key] = {}  # a section that is not there: `parse` says so, in its words
            at = at[key]
        at[last] = value
    return merged


def get(raw: Mapping[str, Any], name: str) -> Any:
    """The value under a dotted name."""
    value: Any = raw
    for key in name.split("."):
        value = value[key]
    return value


def flatten(raw: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"learning_rate": 0.1}} -> {"train.learning_rate": 0.1}"""
    flat: dict[str, Any] = {}
    for key, value in raw.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """{"train.learning_rate": 0.1} -> {"train": {"learning_rate": 0.1}}"""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        at = nested
        for key in path:
            at = at.setdefault(key, {})
        at[last] = value
    return nested


def _copy(raw: Any) -> Any:
    return {k: _copy(v) for k, v in raw.items()} if isinstance(raw, Mapping) else raw
