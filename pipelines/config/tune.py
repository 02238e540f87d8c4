"""The section `tune`: what is searched, how, and with what."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipelines.config import space as spaces
from pipelines.config.fields import Above0, Count, Positive, Section, Weight

Sampler = Literal["random", "grid", "tpe", "cmaes", "gp", "nsga2"]
Scheduler = Literal["halving", "asha", "pbt", "none"]
AT_ONCE = ("random", "grid")  # samplers whose candidates are known before any result is
TOGETHER = ("halving", "pbt")  # schedulers that hold all candidates against each other
# What can change while a model is trained: the shape, the optimiser's state and the sampler's order stay.
CHANGEABLE = ("train.learning_rate", "train.clip_norm", "train.augment.", "loss.terms.", "loss.semantic.")


class Resources(Section):
    """Of each trial."""

    cpu: Above0
    gpu: Weight
    memory: Above0


class Population(Section):
    interval: Positive
    fraction: Annotated[float, Field(gt=0, le=0.5)]


class Tune(Section):
    trials: Count
    epochs: Positive
    concurrent: Positive
    resources: Resources
    objectives: Annotated[list[Literal["score", "latency"]], Field(min_length=1, max_length=2)]
    max_latency: Above0 | None
    sampler: Sampler
    scheduler: Scheduler
    space: dict[str, dict[spaces.Key, Any]]
    grace_epochs: Positive
    reduction_factor: Annotated[int, Field(ge=2)]
    population: Population

    @field_validator("space")
    @classmethod
    def _sound(cls, space: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if found := list(spaces.faults(space)):
            raise ValueError("; ".join(found))
        return space

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if found := [*self._settings_faults(), *self._sampler_faults(), *self._objective_faults()]:
            raise ValueError("; ".join(found))
        return self

    def _settings_faults(self) -> list[str]:
        found = []
        if self.trials and not self.space:
            found.append("space is empty: name what is searched, or set tune.trials to 0")
        if self.grace_epochs > self.epochs:
            found.append(f"grace_epochs {self.grace_epochs} is more than tune.epochs {self.epochs}: change one of them")
        if self.scheduler == "pbt":
            fixed = [name for name in self.space if not name.startswith(CHANGEABLE) or name.endswith("class_weights")]
            found += [
                f"scheduler pbt changes values while it trains, and {name} cannot change: leave it out of tune.space, "
                "or set scheduler to halving, asha or none"
                for name in fixed
            ]
        return found

    def _sampler_faults(self) -> list[str]:
        if self.scheduler in TOGETHER and self.sampler not in AT_ONCE:
            return [
                f"scheduler {self.scheduler} holds all candidates against each other, and sampler {self.sampler} draws "
                "each from the results before it: set scheduler to asha or none, or sampler to random or grid"
            ]
        if self.sampler == "grid" and self.trials:
            return self._grid_faults()
        if self.sampler == "cmaes" and (name := next((n for n, s in self.space.items() if "choice" in s), None)):
            return [f"sampler cmaes knows numbers only, and {name} is a choice: set sampler to tpe, gp or random"]
        return []

    def _grid_faults(self) -> list[str]:
        space = spaces.read(self.space)
        endless = [name for name, range_ in space.items() if range_.points() is None]
        if endless:
            return [f"sampler grid needs a choice, an integer or a step: {', '.join(endless)} has no end of values"]
        size = 1
        for range_ in space.values():
            size *= len(range_.points() or ())
        if size > 100_000 or (size := len(spaces.grid(space))) > self.trials:
            return [f"the grid has {size} points and tune.trials is {self.trials}: raise it, or name fewer values"]
        return []

    def _objective_faults(self) -> list[str]:
        if self.objectives not in (["score"], ["score", "latency"]):
            return [f"objectives must be [score] or [score, latency], got {self.objectives}"]
        if "latency" not in self.objectives:
            return ["max_latency bounds an objective: add latency to tune.objectives"] * (self.max_latency is not None)
        found = []
        if self.scheduler != "none":
            found.append(f"scheduler {self.scheduler} looks at the score alone: with latency as an objective, set none")
        if self.sampler in ("cmaes", "gp"):
            found.append(f"sampler {self.sampler} has one objective: with latency, set tpe, nsga2, random or grid")
        return found
