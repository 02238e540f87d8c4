"""Data-parallel training on Ray Train.

Ray starts a worker group and tells how it ended. How many workers the next one has is `crew`'s to say, whether there
is a next one `lost`'s (where a process is gone; where the code raised, it would only raise again), and what it resumes
from is ours as well (`checkpoint`).
"""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import config
from pipelines.cluster import sharing
from pipelines.cluster.room import use_gpu
from pipelines.errors import RunError
from pipelines.training.balance import Balance
from pipelines.training.workers import interruption, lost, regroup, shared
from pipelines.training.workers.crew import Crew, say, smallest


def train(raw: dict[str, Any], *, data: Path, state: Path, fingerprint: str, balance: Balance | None = None) -> None:
    """Run the job to its end; `result.take(state, ...)` then has the model. Ray must be up."""
    import ray.train
    from ray.exceptions import RayError

    params = config.parse(raw).train
    least = smallest(params.passes, least=params.min_workers)
    gpu = use_gpu(params.device, params.workers, least)
    job = {"raw": raw, "data": data, "state": state, "fingerprint": fingerprint, "gpu": gpu, "balance": balance}
    crew = Crew(
        passes=params.passes, workers=params.workers, least=least, gpu=gpu, reserve=int(params.validation.beside)
    )
    losses = _Losses(state, params.max_failures)
    checked, attempt, done = frozenset[str](), 0, False
    with interruption.saving_first(state) as interrupted:
        while not done:
            say(crew.form())
            look = partial(sharing.check, shared.of(data, state))
            checked = look(checked)
            try:
                with crew.growing(state, partial(look, checked)):
                    interrupted.end_if_any()  # it came before there was a group to ask
                    done = _attempt(job, crew, attempt)
            except (ray.train.TrainingFailedError, RayError) as error:
                interrupted.end_if_any()
                if lost.is_full(error):
                    crew.cannot_start()
                else:
                    losses.count(lost.reason(error))
            interrupted.end_if_any()
            attempt += 1


def _attempt(job: dict[str, Any], crew: Crew, attempt: int) -> bool:
    """One worker group, from its start to its end; whether the job is done, and not only this group with it."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ray's own would leave with 1 and without a word; the stage knows what was interrupted."""

    trainer = Trainer(
        _worker,
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if crew.gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=crew.size, use_gpu=crew.gpu, resources_per_worker={"CPU": 1, **({"GPU": 1} if crew.gpu else {})}
        ),
        run_config=ray.train.RunConfig(
            name=f"attempt-{attempt}",
            storage_path=str(job["state"] / "ray"),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            # Every end comes to us: Ray's own next try would have as many workers, whatever nodes are left.
            failure_config=ray.train.FailureConfig(
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
        ),
    )
    return bool(trainer.fit().return_value)


def _worker(job: dict[str, Any]) -> bool:
    """Runs in each process of the group; whether the job is done."""
    from pipelines.training.watching.events import EventLog

    events = EventLog(job["state"] / "events.jsonl")
    events.mark("workers started")
    import ray.train
    import ray.train.torch
    import torch

    from pipelines.training import result
    from pipelines.training.job import Group, Job, LeftError
    from pipelines.training.loop import fit

    events.mark("libraries imported")
    params = config.parse(job["raw"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if job["gpu"] else torch.device("cpu")
    group = Group(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        leave=partial(regroup.asked, job["state"]),
    )
    task = Job(params=params, data=job["data"], state=job["state"], balance=job["balance"])
    try:
        fit(task, group)
    except LeftError:
        return False
    if group.rank == 0:
        result.write(task, raw=job["raw"], fingerprint=job["fingerprint"])
    return True


@dataclass
class _Losses:
    """Of workers, since a checkpoint was last written: a week on machines that come and go loses many, and a run that
    gets nowhere is ended after `most` restarts."""

    state: Path
    most: int
    since: int = 0
    seen: frozenset[Path] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        self.seen = self._checkpoints()

    def count(self, reason: str) -> None:
        """RunError, when there were too many."""
        found = self._checkpoints()
        self.since = 1 if found - self.seen else self.since + 1
        self.seen |= found
        if self.since > self.most:
            times = f"{self.since} times" if self.since > 1 else "once"
            raise RunError(
                f"a worker was lost {times} since the last checkpoint: {reason}\n"
                "do: look for memory or disk running out on the node; `dvc repro train` goes on from the last "
                "checkpoint"
            )
        say(f"lost {reason}; restart {self.since} of {self.most} since the last checkpoint")

    def _checkpoints(self) -> frozenset[Path]:
        return frozenset((self.state / "checkpoints").glob("step-*/manifest.json"))
