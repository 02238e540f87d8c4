"""Synchronous successive halving (Jamieson & Talwalkar, AISTATS 2016): Hyperband's most eager bracket, alone.

Ray's Hyperband opens with the bracket that stops nothing, so a search of a few trials would be none.
"""

import math
from typing import Any

from ray.tune.schedulers.hyperband import HyperBandScheduler, _Bracket


class SuccessiveHalving(HyperBandScheduler):
    """After `grace` epochs all but one in `reduction_factor` of the trials are stopped, again after that many times
    the epochs, and so on to `epochs`. A trial waits for the others at each of these points."""

    def __init__(self, *, trials: int, epochs: int, grace: int, reduction_factor: int):
        super().__init__(max_t=epochs, reduction_factor=reduction_factor)
        self.trials, self.epochs, self.grace, self.factor = trials, epochs, grace, reduction_factor
        self._s_max_1 = 1  # one bracket

    def _create_bracket(self, s: int) -> Any:
        return _Bracket(
            time_attr=self._time_attr,
            max_trials=self.trials,
            init_t_attr=self.grace,
            max_t_attr=self.epochs,
            eta=self.factor,
            s=math.ceil(math.log(self.epochs / self.grace, self.factor) - 1e-9),
        )
