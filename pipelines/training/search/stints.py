"""The board's two sides to Tune: which trial goes on next, and what its results lead to."""

import json
from typing import Any

from ray.exceptions import RayError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pipelines.training import memory
from pipelines.training.search.board import Board
from pipelines.training.search.stint import micro_batch
from pipelines.training.workers.lost import first_line


class Stints(Searcher):
    """Tune's question: what next?"""

    def __init__(self, board: Board):
        super().__init__(metric="score", mode="max")
        self.board = board

    def suggest(self, trial_id: str) -> Any:
        if self.board.over:
            return Searcher.FINISHED
        if (record := self.board.next()) is None:
            return None  # not now: Tune asks again
        return {
            "trial": record.number,
            "values": record.values,
            "epochs": record.epochs,
            "smaller": record.smaller,
        }

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """The scheduler is told the same."""

    def save(self, checkpoint_path: str) -> None:
        """The journal has it all."""

    def restore(self, checkpoint_path: str) -> None:
        """The journal has it all."""

    def __reduce__(self) -> Any:  # Tune stores it with its state; this one belongs to the process
        return Searcher, ("score", "max")


class Turns(FIFOScheduler):
    """Tune's news, passed to the board."""

    def __init__(self, board: Board, raw: dict[str, Any]):
        super().__init__()
        self.board, self.raw = board, raw
        self.wrong_input = ""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        if row := result.get("row"):
            return str(TrialScheduler.CONTINUE if self.board.told(number, json.loads(row)) else TrialScheduler.STOP)
        if result.get("finished"):
            self.board.finished(number, result.get("latency"))
        elif result.get("out_of_memory"):
            self.board.out_of_memory(number, result["failure"], images=self._images(trial))
        elif "failure" in result:
            self._failed(number, result)
        return str(TrialScheduler.STOP)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self.board.closed(trial.config["trial"])

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self.board.closed(trial.config["trial"])

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """The function tells what goes wrong in it: here its process went away."""
        number, error = trial.config["trial"], trial.get_pickled_error()
        if error is None:  # Tune keeps it only later
            self.board.lost(number, "its process went away", images=self._images(trial))
        elif memory.ran_out(error):  # Ray ended it, before the kernel would
            self.board.out_of_memory(number, _said(error), images=self._images(trial))
        elif isinstance(error, RayError):
            self.board.lost(number, _said(error), images=self._images(trial))
        else:
            self.board.failed(number, _said(error))
        self.board.closed(number)

    def _images(self, trial: Any) -> int:
        return micro_batch(self.raw, trial.config["values"], trial.config["smaller"])

    def _failed(self, number: int, result: dict[str, Any]) -> None:
        """Wrong in params.yaml itself, or in the data: no values that are drawn would mend it."""
        if number == 0 and result["wrong_input"]:
            self.wrong_input = result["wrong_input"]
            self.board.give_up()
        self.board.failed(number, result["failure"])

    def __reduce__(self) -> Any:  # as above
        return FIFOScheduler, ()


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
