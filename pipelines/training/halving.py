"""Synchronous successive halving (Jamieson & Talwalkar, AISTATS 2016).

Ray's own Hyperband opens with the bracket that stops nothing, so a search of a few trials would be none. It also waits
for ever for a trial that is being saved when the last one ends, or that dies after the first halving.
"""

import math
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

CONTINUE: str = TrialScheduler.CONTINUE
PAUSE: str = TrialScheduler.PAUSE
STOP: str = TrialScheduler.STOP


class SuccessiveHalving(TrialScheduler):
    """After `grace` epochs all but one in `reduction_factor` of the trials are stopped, again after that many times
    the epochs, and so on to `epochs`. A trial waits for the others at each of these rungs."""

    def __init__(self, *, trials: int, epochs: int, grace: int, reduction_factor: int):
        super().__init__()
        self._rung = min(grace, epochs)
        self._last = epochs
        self._to_come = trials  # Tune hands them over little by little
        self._room = trials  # how many may run towards the present rung
        self._factor = reduction_factor
        self._running: set[Trial] = set()  # not there yet; what Tune calls pending or paused may be among them
        self._arrived: dict[Trial, float] = {}  # the score with which each waits

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._to_come -= 1
        self._running.add(trial)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if result["training_iteration"] < self._rung:
            return CONTINUE
        if self._rung == self._last:
            return STOP  # nothing is left to wait for
        self._running.discard(trial)
        self._arrived[trial] = result[self.metric]
        lost = self._halve(tune_controller, current=trial)
        if trial in lost:
            return STOP
        return PAUSE if trial in self._arrived else CONTINUE

    def _halve(self, tune_controller: Any, current: Trial | None = None) -> set[Trial]:
        """Once all have arrived that live: release the better, stop the others (its caller stops the current one)."""
        if self._to_come or self._running or not self._arrived:
            return set()
        self._rung = min(self._rung * self._factor, self._last)
        self._room = math.ceil(self._room / self._factor)
        # Of equals the one that was drawn first, never the one that was faster.
        ranked = sorted(self._arrived, key=lambda t: (-self._arrived[t], t.config["trial"]))
        lost = set(ranked[self._room :])
        self._running = set(ranked[: self._room])
        self._arrived.clear()
        for trial in lost - {current}:
            tune_controller.stop_trial(trial)
        return lost

    def _gone(self, tune_controller: Any, trial: Trial) -> None:
        if trial in self._running or trial in self._arrived:
            self._running.discard(trial)
            self._arrived.pop(trial, None)
            self._halve(tune_controller)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._gone(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._gone(tune_controller, trial)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._gone(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        waiting = (t for t in self._running if t.status in (Trial.PENDING, Trial.PAUSED))
        return min(waiting, key=lambda t: t.config["trial"], default=None)

    def debug_string(self) -> str:
        return f"successive halving: {len(self._running)} towards epoch {self._rung}, {len(self._arrived)} wait there"
