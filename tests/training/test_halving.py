"""Successive halving against a driver that reports, saves and loses trials in any order, as Tune does."""

import math
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipelines.training.halving import SuccessiveHalving

PENDING, RUNNING, PAUSED, TERMINATED, ERROR = "PENDING", "RUNNING", "PAUSED", "TERMINATED", "ERROR"


@dataclass(eq=False)
class FakeTrial:
    config: dict[str, int]
    status: str = PENDING
    saving: bool = False  # told to pause, and still at it: Tune calls it running
    epochs: int = 0


@dataclass
class Driver:
    """What Tune's controller does with the scheduler's answers, one event at a time."""

    scheduler: SuccessiveHalving
    scores: list[list[float]]  # trial, epoch
    slots: int
    dies: dict[int, int]  # trial -> the epoch in which it is lost
    trials: list[FakeTrial] = field(default_factory=list)

    def stop_trial(self, trial: FakeTrial) -> None:
        if trial.status in (PENDING, PAUSED):
            self.scheduler.on_trial_remove(self, trial)
        elif trial.status == RUNNING:
            self.scheduler.on_trial_complete(self, trial, {})
        trial.status, trial.saving = TERMINATED, False

    def step(self, trial: FakeTrial) -> None:
        if trial.saving:
            trial.status, trial.saving = PAUSED, False
            return
        number = trial.config["trial"]
        if self.dies.get(number) == trial.epochs:
            trial.status = ERROR
            self.scheduler.on_trial_error(self, trial)
            return
        result = {"training_iteration": trial.epochs + 1, "score": self.scores[number][trial.epochs]}
        trial.epochs += 1
        decision = self.scheduler.on_trial_result(self, trial, result)
        if decision == "STOP":
            self.stop_trial(trial)
        elif decision == "PAUSE":
            trial.saving = True

    def run(self, order: Any) -> list[int]:
        to_add = [FakeTrial({"trial": n}) for n in range(len(self.scores))]
        while True:
            if to_add and sum(t.status == PENDING for t in self.trials) < 2:
                self.trials.append(to_add.pop(0))
                self.scheduler.on_trial_add(self, self.trials[-1])
                continue
            while sum(t.status == RUNNING for t in self.trials) < self.slots:
                if (chosen := self.scheduler.choose_trial_to_run(self)) is None:
                    break
                assert chosen.status in (PENDING, PAUSED)
                chosen.status = RUNNING
            running = [t for t in self.trials if t.status == RUNNING]
            if not running:
                break
            self.step(order.choice(running))
        assert all(t.status in (TERMINATED, ERROR) for t in self.trials), [t.status for t in self.trials]
        return [t.epochs for t in self.trials]


def by_hand(scores: list[list[float]], epochs: int, grace: int, factor: int, dies: dict[int, int]) -> list[int]:
    """The same, without time: every trial runs to the rung, then they are sorted."""
    ran, alive, room, rung, done = [0] * len(scores), list(range(len(scores))), len(scores), min(grace, epochs), False
    while not done:
        for n in alive:
            ran[n] = min(rung, dies.get(n, rung))
        alive = [n for n in alive if dies.get(n, rung) >= rung]
        done = rung == epochs
        room = math.ceil(room / factor)
        alive = sorted(alive, key=lambda n: (-scores[n][rung - 1], n))[:room]
        rung = min(rung * factor, epochs)
    return ran


@given(st.data())
def test_who_goes_on_depends_on_the_scores_alone(data):
    trials, epochs = data.draw(st.integers(1, 7)), data.draw(st.integers(1, 9))
    grace, factor = data.draw(st.integers(1, epochs)), data.draw(st.integers(2, 4))
    scores = data.draw(
        st.lists(
            st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=epochs, max_size=epochs),
            min_size=trials,
            max_size=trials,
        )
    )
    dies = data.draw(st.dictionaries(st.integers(0, trials - 1), st.integers(0, epochs - 1), max_size=3))
    scheduler = SuccessiveHalving(trials=trials, epochs=epochs, grace=grace, reduction_factor=factor)
    scheduler.set_search_properties("score", "max")
    driver = Driver(scheduler, scores, data.draw(st.integers(1, 4)), dies)
    assert driver.run(data.draw(st.randoms())) == by_hand(scores, epochs, grace, factor, dies)
