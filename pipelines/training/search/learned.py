"""Optuna's samplers (Akiba et al., KDD 2019, arXiv 1907.10902), asked and told directly.

Ray's OptunaSearch keeps its study in a pickle. Here nothing is kept: asked and told the same in the same order, a
seeded sampler says the same, so a search that was killed tells it all again.
"""

import warnings
from collections.abc import Sequence
from typing import Any

from pipelines.config import space as spaces
from pipelines.training.search.draws import tidy


class Learned:
    """Draws each candidate from the results before it; the first is params.yaml itself."""

    def __init__(
        self, name: str, space: spaces.Space, *, first: dict[str, Any], trials: int, seed: int, directions: list[str]
    ):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self.first, self.total = space, first, trials
        samplers = optuna.samplers
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler: Any = {
                "tpe": lambda: samplers.TPESampler(seed=seed, multivariate=True, group=True),
                "cmaes": lambda: samplers.CmaEsSampler(seed=seed),
                "gp": lambda: samplers.GPSampler(seed=seed, deterministic_objective=True),
                "nsga2": lambda: samplers.NSGAIISampler(seed=seed, population_size=max(2, min(50, trials // 3))),
            }[name]()
        self.study = optuna.create_study(sampler=sampler, directions=directions)
        self.asked: dict[int, Any] = {}

    def ask(self, number: int) -> dict[str, Any]:
        if number == 0:
            return self.first
        trial = self.asked[number] = self.study.ask()
        values: dict[str, Any] = {}
        for name, range_ in self.space.items():
            if spaces.active(range_, values):
                values[name] = self._suggest(trial, name, range_)
        return values

    def tell(self, number: int, objectives: Sequence[float] | None) -> None:
        import optuna

        if number:
            state = optuna.trial.TrialState.FAIL if objectives is None else None
            self.study.tell(self.asked.pop(number), list(objectives) if objectives is not None else None, state=state)
        elif objectives is not None and (params := self._as_optuna_s(self.first)) is not None:
            distributions = {name: distribution(self.space[name]) for name in params}
            self.study.add_trial(
                optuna.trial.create_trial(params=params, distributions=distributions, values=list(objectives))
            )

    def _suggest(self, trial: Any, name: str, range_: spaces.Range) -> Any:
        if range_.kind == "choice":  # by place: Optuna knows no lists
            return range_.values[trial.suggest_categorical(name, list(range(len(range_.values))))]
        wide = distribution(range_)
        suggest = trial.suggest_int if range_.kind in spaces.WHOLE else trial.suggest_float
        step = {"step": wide.step} if wide.step is not None else {}
        return tidy(range_, suggest(name, wide.low, wide.high, log=wide.log, **step))

    def _as_optuna_s(self, values: dict[str, Any]) -> dict[str, Any] | None:
        """What the file says, where the ranges hold it: what lies outside teaches nothing about them."""
        said = {}
        for name, value in values.items():
            range_ = self.space[name]
            if range_.kind == "choice":
                if value not in range_.values:
                    return None
                said[name] = range_.values.index(value)
            elif not range_.values[0] <= value <= range_.values[1] or tidy(range_, value) != value:
                return None
            else:
                said[name] = value
        return said


def distribution(range_: spaces.Range) -> Any:
    """Optuna's word for a range."""
    from optuna import distributions

    if range_.kind == "choice":
        return distributions.CategoricalDistribution(list(range(len(range_.values))))
    (low, high), log = range_.values, range_.kind in spaces.LOGARITHMIC
    if range_.step is not None:  # the last step that is whole
        high = (range_.points() or [high])[-1]
    if range_.kind in spaces.WHOLE:
        return distributions.IntDistribution(low, high, log=log, step=int(range_.step or 1))
    return distributions.FloatDistribution(low, high, log=log, step=range_.step)
