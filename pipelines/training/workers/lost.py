"""Why a worker group ended: a process or a node that is gone, which is worth another try, or an error in what it ran,
which would only come again."""

from textwrap import shorten
from typing import Any

from pipelines.errors import MasklineError, RunError
from pipelines.training.memory import ran_out

# What the ranks that are left say when one of them is gone; of such errors alone, none is the cause.
COLLECTIVES = (
    "gloo",
    "NCCL",
    "TCPStore",
    "c10d",
    "Connection reset by peer",
    "Connection closed by peer",
    "Broken pipe",
)


def lost_ranks(failures: dict[int, Exception]) -> list[int]:
    """The ranks whose process went away, as opposed to those that raised (perhaps only because another went away)."""
    return [rank for rank, error in sorted(failures.items()) if _is_loss(error)]


def reason(error: Exception) -> str:
    """Of a loss, in one line. An error that is none is raised here, the root cause first."""
    import ray.train
    from ray.exceptions import RayError

    if isinstance(error, ray.train.WorkerGroupError):
        if lost := lost_ranks(error.worker_failures):
            ranks = ", ".join(map(str, lost))
            return f"worker {ranks}: {first_line(error.worker_failures[lost[0]])}"
        if all(map(is_collective, error.worker_failures.values())):
            return f"a worker, of which the others say: {first_line(next(iter(error.worker_failures.values())))}"
        raise _root_cause(error) from error
    inner = getattr(error, "controller_failure", error)  # what Ray's own side of the group met
    if isinstance(error, ray.train.TrainingFailedError | RayError) and (_is_loss(inner) or is_collective(inner)):
        return f"a worker group: {first_line(inner)}"
    raise RunError(f"Ray could not run the workers: {first_line(error)}\n{last_line(error)}") from error


def is_full(error: Exception) -> bool:
    """Whether there was no room for the group: what the nodes have, others use."""
    from ray.train.v2._internal.exceptions import InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError

    full = (InsufficientClusterResourcesError, WorkerGroupStartupTimeoutError)
    return isinstance(getattr(error, "controller_failure", None), full)


def is_collective(error: Exception) -> bool:
    if isinstance(error, MasklineError):  # which may speak of images and folders of any name
        return False
    distributed = any(cls.__module__ == "torch.distributed" for cls in type(error).__mro__)
    return distributed or any(name in str(error) for name in COLLECTIVES)


def _is_loss(error: Exception) -> bool:
    """Of a process: killed, out of memory, preempted, on a node that died, or not to be reached."""
    from ray.exceptions import RayError
    from ray.train.v2._internal.exceptions import (
        WorkerGroupStartupFailedError,
        WorkerHealthCheckFailedError,
        WorkerHealthCheckTimeoutError,
    )
    from ray.train.v2.api.exceptions import PreemptionError

    gone = (WorkerHealthCheckFailedError, WorkerHealthCheckTimeoutError, WorkerGroupStartupFailedError, PreemptionError)
    return isinstance(error, (RayError, *gone))


def _root_cause(group: Any) -> Exception:
    """Our own error first, then any that is not a collective that broke because another rank had stopped. What is no
    error of ours is a bug, and comes with its traceback."""
    errors = sorted(group.worker_failures.items())
    ours = [e for _, e in errors if isinstance(e, MasklineError)]
    full = next((r for r, e in errors if ran_out(e)), None)
    if full is not None and not ours:
        return RunError(
            f"out of memory on rank {full}: {first_line(dict(errors)[full])}\n"
            "do: double train.accumulate, which keeps the batch and halves each pass, or lower train.batch_size or "
            "train.augment.crop"
        )
    others = [(r, e) for r, e in errors if not is_collective(e)] or errors
    return ours[0] if ours else RunError(f"training failed on rank {others[0][0]}: {others[0][1]!r}\n{group}")


def first_line(error: Exception) -> str:
    return shorten(next(iter(str(error).strip().splitlines()), repr(error)), 200, placeholder=" ...")


def last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
