"""Batches that would spoil a model: told with their images, left out after going back to before them, or the end."""

from collections.abc import Sequence
from pathlib import Path

from pipelines import files
from pipelines.errors import RunError
from pipelines.training.checkpoint import FOLDER as CHECKPOINTS
from pipelines.training.job import Group, gathered

FILE = "left_out.json"  # beside the checkpoints: who takes these has it too


class SpoiltError(Exception):
    """An update whose loss or gradient is no number, or whose loss is out of all proportion. All ranks raise it."""

    def __init__(self, step: int, what: str, ids: Sequence[Sequence[str]]):
        """`ids`: of each rank's images."""
        self.step, self.ids = step, [list(each) for each in ids]
        images = "\n".join(
            f"images of the batch on rank {rank}: {', '.join(each)}" for rank, each in enumerate(self.ids)
        )
        super().__init__(f"{what}\n{images}")


class Rollbacks:
    """The updates that are left out, kept in a file of the job's state: a run that is resumed leaves them out too."""

    def __init__(self, state: Path, *, most: int, group: Group):
        self.path, self.most, self.group = state / CHECKPOINTS / FILE, most, group
        try:
            self.left_out: list[int] = files.read_sealed(self.path)["steps"]
        except FileNotFoundError:
            self.left_out = []
        except (OSError, ValueError, KeyError) as error:
            raise RunError(
                f"{self.path} is damaged ({error}), which says what batches were left out\n"
                f"do: remove {state}, and train again from the beginning"
            ) from None
        self.left_out = gathered(self.left_out, group.world)[0]

    def allow(self, spoilt: SpoiltError) -> None:
        """Leave this update out from now on; or the end, where that was done often enough."""
        if len(self.left_out) >= self.most:
            times = f", after {self.most} rollbacks" if self.most else ""
            more = "raise train.guards.rollbacks to leave it out, " if not self.most else ""
            raise RunError(
                f"{spoilt}{times}\ndo: {more}lower train.learning_rate, set train.clip_norm, or look at these images"
            )
        self.left_out.append(spoilt.step)
        if self.group.rank == 0:
            files.write_sealed(self.path, {"steps": self.left_out})
