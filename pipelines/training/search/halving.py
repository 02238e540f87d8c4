"""Synchronous successive halving (Jamieson & Talwalkar, AISTATS 2016).

Ray's own Hyperband opens with the bracket that stops nothing, so a search of a few trials would be none. It also waits
for ever for a trial that is being saved when the last one ends, or that dies after the first halving.
"""

import math
from dataclasses import dataclass

from pipelines.training.search.rules import Records, Rule, Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class Halving(Rule):
    """After `grace` epochs all but one in `factor` of the trials are stopped, again after that many times the epochs,
    and so on to `epochs`. A trial waits for the others at each of these rungs."""

    epochs: int
    grace: int
    factor: int

    def judge(self, records: Records, total: int) -> dict[int, Verdict]:
        """From the first rung on, as if it were all to happen now."""
        verdicts: dict[int, Verdict] = {}
        alive, room, rung = list(range(total)), total, min(self.grace, self.epochs)
        while True:
            alive = [n for n in alive if n not in records or not self._fell_before(rung, records, n)]
            if rung == self.epochs or not all(n in records and records[n].reached(rung) for n in alive):
                break
            room = math.ceil(room / self.factor)
            # Of equals the one that was drawn first, never the one that was faster.
            alive.sort(key=lambda n: (-records[n].score_at(rung), n))
            verdicts |= dict.fromkeys(alive[room:], "stop")
            alive = alive[:room]
            rung = min(rung * self.factor, self.epochs)
        for n in alive:
            # Whoever is at the very end has nothing left to wait for.
            waits = n in records and records[n].reached(rung) and rung < self.epochs
            verdicts[n] = "wait" if waits else "run"
        return {n: verdict for n, verdict in verdicts.items() if n in records and records[n].live}

    @staticmethod
    def _fell_before(rung: int, records: Records, n: int) -> bool:
        return records[n].status == "failed" and records[n].epochs < rung
