"""The headline metrics on the validation split after an epoch: by the group itself, or beside it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from pipelines import files
from pipelines.config import HEADLINE, Params
from pipelines.data.shards import ShardReader
from pipelines.errors import RunError
from pipelines.evaluation.evaluator import Evaluator, score
from pipelines.inference.predictor import Predictor
from pipelines.models.contract import SegmentationModel
from pipelines.training.checkpoint import FOLDER as CHECKPOINTS
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.job import Group, Job, Row, gathered
from pipelines.training.rebuild import describe, rebuild

log = logging.getLogger(__name__)
PENDING = 60.0  # seconds between two words about a validation that does not come
FILE = "validations.json"  # beside the checkpoints: who takes these has it too


class Validations:
    """What is known by epoch, kept in a file of the job's state: measured once, whatever happens to the training."""

    def __init__(self, state: Path, known: Mapping[int, Row], *, keeps: bool):
        """`known`: from a checkpoint, which holds what was measured before it. `keeps`: whether it writes the file."""
        self.path, self.keeps = state / CHECKPOINTS / FILE, keeps
        self.rows = {**known, **self._read()}

    def add(self, epoch: int, row: Row) -> None:
        self.rows[epoch] = row
        if not self.keeps:
            return
        said = {str(e): r for e, r in sorted(self.rows.items())}
        files.write_sealed(self.path, {"rows": said})

    def merged(self, rows: Sequence[Row]) -> list[Row]:
        """What training said of its epochs, with what validation says of them."""
        return [row | self.rows.get(int(row["epoch"]), {}) for row in rows]

    def scores(self, task: str) -> dict[int, float]:
        return {epoch: row[f"val_{HEADLINE[task]}"] for epoch, row in self.rows.items()}

    def _read(self) -> dict[int, Row]:
        try:
            return {int(epoch): row for epoch, row in files.read_sealed(self.path)["rows"].items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s cannot be read (%s): what it held is measured again", self.path, error)
            return {}


def history(state: Path) -> list[Row]:
    """Of the epochs of a job's state folder that are trained and measured."""
    last = Checkpoints.of(state).last()
    if last is None:
        return []
    known = Validations(state, last["validations"], keeps=False)
    return [row for row in known.merged(last["position"]["rows"]) if int(row["epoch"]) in known.rows]


def due(epoch: int, params: Params, epochs: int) -> bool:
    """Is this one of so many epochs one that is measured? The last one always is."""
    return (epoch + 1) % params.train.validation.every == 0 or epoch + 1 == epochs


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def together(
    model: SegmentationModel,
    job: Job,
    group: Group,
    reader: ShardReader,
    *,
    gather: Callable[[Any], list[Any]],
    on_image: Callable[[], None],
) -> Row:
    """By all ranks, which share the images; all of them know the result.

    Ranks that hold a part of the weights each need one another for every image: they all see all of them.
    """
    apart = job.params.train.parallel != "fsdp"
    rank, world = (group.rank, group.world) if apart else (0, 1)
    share = range(rank * len(reader) // world, (rank + 1) * len(reader) // world)
    training = model.training
    try:
        mine = _score(model, job.params, reader, share, group.device, on_image)
    finally:
        model.train(training)
    return _headlines(_merged(gather(mine)) if apart else mine)


class Beside:
    """By a Ray task of its own, from the epoch's checkpoint, while the group trains on. One at a time."""

    def __init__(self, job: Job, group: Group):
        self.job, self.group = job, group
        self.epoch: int | None = None  # that is being measured
        self._task: Any = None

    def start(self, epoch: int) -> None:
        self.epoch = epoch
        if self.group.rank == 0:
            import ray

            measure = ray.remote(num_cpus=1, max_retries=3)(measure_checkpoint)
            self._task = measure.remote(self.job, epoch)

    def result(self) -> Row:
        """Waits for it; every rank is told."""
        row: Row = {}
        if self.group.rank == 0:
            row = self._waited_for()
        self.epoch = self._task = None
        first: Row = gathered(row, self.group.world)[0]
        return first

    def _waited_for(self) -> Row:
        import ray
        from ray.exceptions import RayTaskError

        while not ray.wait([self._task], timeout=PENDING)[0]:
            log.warning("the validation of epoch %s is not done: is there a CPU for it?", self.epoch)
        try:
            row: Row = ray.get(self._task)
            return row
        except RayTaskError as error:  # wrong in what it runs, not a process that was lost
            raise error.cause from None


def measure_checkpoint(job: Job, epoch: int, device: str = "cpu") -> Row:
    reader = ShardReader(job.data, "val")
    state = Checkpoints.of(job.state).of_epoch(epoch)
    if state is None:
        raise RunError(
            f"the checkpoint of epoch {epoch} in {job.state}, which is to be measured, is damaged\n"
            f"do: remove {job.state}, and train again"
        )
    model = rebuild(job.params, reader.manifest, state)
    evaluator = _score(model.to(device), job.params, reader, range(len(reader)), torch.device(device))
    return _headlines(evaluator)


def _score(
    model: SegmentationModel,
    params: Params,
    reader: ShardReader,
    indices: range,
    device: torch.device,
    on_image: Callable[[], None] = lambda: None,
) -> Evaluator:
    predictor = Predictor(model, describe(params.task, reader.manifest), str(device))
    with autocast(device, params.train.precision):
        batch_size = params.train.batch_size
        return score(predictor, reader, indices=indices, batch_size=batch_size, on_image=lambda *_: on_image())


def _merged(ranks: list[Evaluator]) -> Evaluator:
    """All ranks' counts in the images' order."""
    first, *others = ranks
    for other in others:
        first.merge(other)
    return first


def _headlines(evaluator: Evaluator) -> Row:
    """An undefined metric (nothing there to find) counts as nothing found."""
    found = evaluator.compute()
    return {f"val_{HEADLINE[view]}": metrics[HEADLINE[view]] or 0.0 for view, metrics in found.items()}
