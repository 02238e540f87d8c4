"""Where candidates come from: all at once, drawn or counted; Optuna's, which learn from results, are in `learned`."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from pipelines.config import Params
from pipelines.config import space as spaces
from pipelines.training.search.draws import draw, of_the_file


class Sampler(Protocol):
    """`total` candidates, by number. Asked and told the same in the same order, it gives the same."""

    total: int

    def ask(self, number: int) -> dict[str, Any]: ...

    def tell(self, number: int, objectives: Sequence[float] | None) -> None:
        """What became of it: the score and further objectives; None where it failed."""


class Drawn:
    """Known before any result is."""

    def __init__(self, candidates: Sequence[dict[str, Any]]):
        self.candidates, self.total = candidates, len(candidates)

    def ask(self, number: int) -> dict[str, Any]:
        return self.candidates[number]

    def tell(self, number: int, objectives: Sequence[float] | None) -> None:
        pass


def candidates(raw: Mapping[str, Any], space: spaces.Space, *, trials: int, seed: int) -> list[dict[str, Any]]:
    """The first is params.yaml itself: what it was given is held against what was drawn. A longer search begins as a
    shorter one."""
    rest = [draw(space, np.random.default_rng([seed, number])) for number in range(1, trials)]
    return [of_the_file(space, raw), *rest]


def build(raw: Mapping[str, Any], params: Params) -> Sampler:
    settings, space = params.tune, spaces.read(params.tune.space)
    if settings.sampler == "grid":
        return Drawn(spaces.grid(space))
    if settings.sampler == "random":
        return Drawn(candidates(raw, space, trials=settings.trials, seed=params.seed))
    from pipelines.training.search.learned import Learned

    return Learned(
        settings.sampler,
        space,
        first=of_the_file(space, raw),
        trials=settings.trials,
        seed=params.seed,
        directions=["maximize", "minimize"][: len(settings.objectives)],
    )
