"""Data-parallel training on Ray Train.

Ray starts the worker group and tells when a worker is lost; what to resume from is ours (`checkpoint`), and so is the
decision to retry: a lost worker is, an exception in the code is not, since it would only come again.
"""

import sys
from pathlib import Path
from typing import Any

from pipelines import config
from pipelines.cluster import check_cpus
from pipelines.errors import MasklineError, RunError
from pipelines.training.balance import Balance


def train(
    raw: dict[str, Any], *, data: Path, state: Path, fingerprint: str, gpu: bool, balance: Balance | None = None
) -> None:
    """Run the job to its end; `result.take(state, ...)` then has the model. Ray must be up."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    class Trainer(TorchTrainer):
        def _register_sigint_handler(self, controller: Any) -> None:
            """Ray's own would leave with 1 and without a word; the stage knows what was interrupted."""

    params = config.parse(raw)
    workers = params.train.workers
    check_cpus(workers)
    for attempt in range(params.train.max_failures + 1):
        trainer = Trainer(
            _worker,
            train_loop_config={
                "raw": raw,
                "data": str(data),
                "state": str(state),
                "fingerprint": fingerprint,
                "gpu": gpu,
                "balance": balance,
            },
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(
                name=f"attempt-{attempt}",
                storage_path=str(state / "ray"),
                logging_config=ray.train.LoggingConfig(log_level="ERROR"),
                failure_config=ray.train.FailureConfig(controller_failure_limit=0),
            ),
        )
        try:
            trainer.fit()
            return
        except ray.train.WorkerGroupError as error:
            lost = _lost(error.worker_failures)
            if not lost:
                raise _root_cause(error) from error
            left = params.train.max_failures - attempt
            print(
                f"train: lost worker {', '.join(map(str, lost))}: {_first_line(error.worker_failures[lost[0]])}; "
                f"{left} restarts left",
                file=sys.stderr,
                flush=True,
            )
            last = error
        except ray.train.TrainingFailedError as error:
            raise RunError(f"Ray could not run the workers: {_first_line(error)}\n{_last_line(error)}") from error
    raise RunError(
        f"a worker was lost {params.train.max_failures + 1} times, last: {_first_line(last.worker_failures[lost[0]])}\n"
        "do: look for memory or disk running out on the node; `dvc repro train` goes on from the last checkpoint"
    )


def _worker(job: dict[str, Any]) -> None:
    """Runs in each process of the group."""
    from pipelines.training.events import EventLog

    events = EventLog(Path(job["state"]) / "events.jsonl")
    events.mark("workers started")
    import ray.train
    import ray.train.torch
    import torch

    from pipelines.training import result
    from pipelines.training.loop import Group, Job, fit

    events.mark("libraries imported")
    params = config.parse(job["raw"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device() if job["gpu"] else torch.device("cpu")
    group = Group(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=device,
        wrap=ray.train.torch.prepare_model,
    )
    task = Job(params=params, data=Path(job["data"]), state=Path(job["state"]), balance=job["balance"])
    fit(task, group)
    if group.rank == 0:
        result.write(task, raw=job["raw"], fingerprint=job["fingerprint"])


def _lost(failures: dict[int, Exception]) -> list[int]:
    """The ranks whose process went away, as opposed to those that raised (perhaps only because another went away)."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError

    gone = (RayError, WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError)
    return [rank for rank, error in failures.items() if isinstance(error, gone)]


def _root_cause(group: Any) -> Exception:
    """Our own error first, then any that is not a collective that broke because another rank had stopped. What is no
    error of ours is a bug, and comes with its traceback."""
    errors = sorted(group.worker_failures.items())
    ours = [e for _, e in errors if isinstance(e, MasklineError)]
    others = [(r, e) for r, e in errors if "gloo" not in str(e) and "NCCL" not in str(e)] or errors
    return ours[0] if ours else RunError(f"training failed on rank {others[0][0]}: {others[0][1]!r}\n{group}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
