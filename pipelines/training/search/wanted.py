"""What the candidates of a search may ask for, before any is drawn."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pipelines import config
from pipelines.config import Params
from pipelines.config import space as spaces
from pipelines.errors import ConfigError


def wanted(raw: Mapping[str, Any], params: Params) -> Iterator[Params]:
    """The file's parameters; all ranges at their upper ends (weights are then above 0), with each value of each choice.
    What goes together nowhere is left out."""
    yield params
    space = spaces.read(params.tune.space)
    upper = {name: range_.values[1] for name, range_ in space.items() if range_.kind != "choice"}
    choices = [{name: value} for name, range_ in space.items() if range_.kind == "choice" for value in range_.values]
    for chosen in [{}, *choices]:
        with suppress(ConfigError):
            yield config.parse(config.merge(raw, {**upper, **chosen}))
