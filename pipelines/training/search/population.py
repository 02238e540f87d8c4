"""Population-based training (Jaderberg et al. 2017, arXiv 1711.09846), by generations: all wait for each other, so that
who copies whom never depends on who is faster, and is the same again after a kill."""

import math
from typing import Any

import numpy as np

from pipelines.config import space as spaces
from pipelines.config.tune import Tune
from pipelines.training.search.draws import tidy, value_at
from pipelines.training.search.record import Record
from pipelines.training.search.rules import Copy, Opening, Records, Rule, Verdict

RESAMPLED = 0.25  # of the values are drawn anew
FACTORS = (0.8, 1.2)  # by which the others move, as in the paper


class Population(Rule):
    """Every `interval` epochs the worst take the weights of the best, and values near theirs."""

    def __init__(self, settings: Tune, *, seed: int):
        self.interval, self.epochs = settings.population.interval, settings.epochs
        self.fraction, self.seed = settings.population.fraction, seed
        self.space = spaces.read(settings.space)

    def judge(self, records: Records, total: int) -> dict[int, Verdict]:
        return {n: "wait" if r.epochs >= self._gate(r) else "run" for n, r in records.items() if r.live}

    def opening(self, records: Records, total: int) -> Opening | None:
        live = {n: record for n, record in records.items() if record.live}
        gate = min((self._gate(r) for r in live.values()), default=math.inf)
        if len(records) < total or gate == math.inf or any(r.epochs < gate for r in live.values()):
            return None
        epoch = int(gate)
        ranked = sorted(live, key=lambda n: (-live[n].score_at(epoch), n))
        count = min(math.ceil(len(ranked) * self.fraction), len(ranked) // 2)
        pairs = zip(ranked[len(ranked) - count :], ranked, strict=False)  # the worst half of them, and the best
        # Whoever passed this gate has copied already, before the search was killed.
        copies = {
            loser: Copy(donor, self._near(live[donor].values, epoch, loser))
            for loser, donor in pairs
            if live[loser].passed < epoch
        }
        return Opening(epoch, copies)

    def _gate(self, record: Record) -> float:
        """The next epoch at which it waits; the last one is none."""
        gate = (record.passed // self.interval + 1) * self.interval
        return gate if gate < self.epochs else math.inf

    def _near(self, values: dict[str, Any], epoch: int, number: int) -> dict[str, Any]:
        random = np.random.default_rng([self.seed, epoch, number])
        near: dict[str, Any] = {}
        for name, range_ in self.space.items():
            anew, share, factor = random.random() < RESAMPLED, random.random(), FACTORS[random.integers(2)]
            if not spaces.active(range_, near):
                continue
            if anew or name not in values:
                near[name] = value_at(range_, share)
            else:
                near[name] = values[name] if range_.kind == "choice" else tidy(range_, values[name] * factor)
        return near
