"""Values set in the text of a YAML file, of which all else stays as it was written: comments, order, layout."""

from collections.abc import Mapping
from typing import Any

import yaml

from pipelines.config.values import Loader
from pipelines.errors import ConfigError, bounded, did_you_mean


def edit(text: str, values: Mapping[str, Any]) -> str:
    """`text` with the dotted names in `values` set; each must be there."""
    root = yaml.compose(text, Loader=Loader)
    spans = _spans(root) if root else {}
    unknown = [f"{name}: no such parameter{did_you_mean(name, spans)}" for name in values if name not in spans]
    if unknown:
        raise ConfigError("values that the file has no place for", bounded(unknown))
    # From the last to the first: what is written moves only what comes after it.
    for name, (start, end) in sorted(spans.items(), key=lambda item: -item[1][0]):
        if name in values:
            text = _replace(text, start, end, written(values[name]))
    return text


def written(value: Any) -> str:
    """A plain value as it stands in a line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()


def _spans(node: yaml.Node, prefix: str = "") -> dict[str, tuple[int, int]]:
    """dotted name -> where its value begins and ends; of sections too, which can be named and not set."""
    found: dict[str, tuple[int, int]] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            if isinstance(value, yaml.MappingNode):
                found |= _spans(value, f"{name}.")
            else:
                found[name] = (value.start_mark.index, value.end_mark.index)
    return found


def _replace(text: str, start: int, end: int, value: str) -> str:
    """A comment behind the value stays in its column, where there is room."""
    rest = text[end:]
    gap = len(rest) - len(rest.lstrip(" "))
    if rest[gap : gap + 1] == "#":
        rest = " " * max(1, gap + (end - start) - len(value)) + rest[gap:]
    return text[:start] + value + rest
