"""The table of `tune.scheduler`."""

from pipelines.config.tune import Tune
from pipelines.training.search.asha import Asha
from pipelines.training.search.halving import Halving
from pipelines.training.search.population import Population
from pipelines.training.search.rules import Rule


def build(settings: Tune, *, seed: int) -> Rule:
    rungs = {"epochs": settings.epochs, "grace": settings.grace_epochs, "factor": settings.reduction_factor}
    match settings.scheduler:
        case "halving":
            return Halving(**rungs)
        case "asha":
            return Asha(**rungs)
        case "pbt":
            return Population(settings, seed=seed)
        case "none":
            return Rule()
