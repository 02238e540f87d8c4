"""Asynchronous successive halving (Li et al., MLSys 2020, arXiv 1810.05934), in the form that stops: nobody waits.

As Ray's AsyncHyperBandScheduler with one bracket decides; that one cannot be built again after a kill.
"""

from dataclasses import dataclass

import numpy as np

from pipelines.training.search.record import Record
from pipelines.training.search.rules import Records, Rule, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Asha(Rule):
    """A trial that comes to a rung is stopped where it is not among the best one in `factor` of those before it."""

    epochs: int
    grace: int
    factor: int

    def judge(self, records: Records, total: int) -> dict[int, Verdict]:
        return {n: self._verdict(record, records) for n, record in records.items() if record.live}

    def _verdict(self, record: Record, records: Records) -> Verdict:
        rung = self.grace
        while rung < self.epochs:
            if record.passed < rung <= record.epochs:
                before = [r.score_at(rung) for r in records.values() if r is not record and r.epochs >= rung]
                if before and record.score_at(rung) < np.percentile(before, (1 - 1 / self.factor) * 100):
                    return "stop"
            rung *= self.factor
        return "run"
