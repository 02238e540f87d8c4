"""What is worth another try, held against the errors that Ray itself raises."""

import pytest
import ray.exceptions as of_ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal import exceptions as of_train
from ray.train.v2.api.exceptions import PreemptionError
from torch.distributed import DistBackendError, DistNetworkError

from pipelines.errors import DataError, RunError
from pipelines.training.workers import lost

BROKEN = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer")
DEAD = of_ray.ActorDiedError()


def died(text: str) -> of_ray.ActorDiedError:
    context = ActorDiedErrorContext(error_message=text, owner_id=bytes(28), actor_id=bytes(16))
    return of_ray.ActorDiedError(context)


LOSSES = {
    "killed": DEAD,
    "unreachable": of_ray.ActorUnavailableError("The actor is temporarily unavailable", None),
    "its raylet died": of_ray.LocalRayletDiedError(),
    "its node died": of_ray.NodeDiedError("the node has failed"),
    "out of memory": of_ray.OutOfMemoryError("Task was killed due to the node running low on memory"),
    "killed by the memory monitor": died("Worker was killed by the memory monitor: the node ran low on memory"),
    "crashed": of_ray.WorkerCrashedError(),
    "gone at a health check": of_train.WorkerHealthCheckFailedError("A worker health check failed.", DEAD),
    "silent": of_train.WorkerHealthCheckTimeoutError("A worker health check timed out."),
}


def group(failures: dict[int, Exception]) -> WorkerGroupError:
    return WorkerGroupError("Traceback: ...", failures)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_what_takes_a_process_away_is_a_loss(loss):
    assert lost.reason(group({0: BROKEN, 1: loss})).startswith("worker 1: "), "whatever the others say of it"
    assert lost.reason(group({0: ValueError("later"), 1: loss})).startswith("worker 1: ")


@pytest.mark.parametrize(
    "inner", [*LOSSES.values(), of_train.WorkerGroupStartupFailedError("a worker failed to initialize")], ids=repr
)
def test_so_it_is_while_the_group_starts(inner):
    assert lost.reason(ControllerError(inner))


@pytest.mark.parametrize("error", [DEAD, LOSSES["unreachable"]], ids=repr)
def test_so_it_is_of_ray_s_own_side_of_the_group(error):
    assert lost.reason(error)


def test_so_is_a_node_that_was_taken_back():
    from ray.train.v2.api.preemption import PreemptionInfo

    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [1]})
    assert "preemption" in lost.reason(PreemptionError(info))


MISSED = [BROKEN, DistBackendError("NCCL error: remote process exited"), DistNetworkError("failed to recv")]


@pytest.mark.parametrize("said", MISSED, ids=repr)
def test_ranks_that_only_miss_another_have_lost_it(said):
    """Where a node is gone, Ray may not know that yet when the other ranks fail."""
    assert lost.reason(group({0: said})).startswith("a worker, of which the others say: ")


def test_a_reason_is_one_line_that_can_be_read():
    said = lost.reason(group({0: RuntimeError("gloo " + "x " * 900 + "\nmore")}))
    assert "\n" not in said
    assert len(said) < 250


def test_the_root_cause_is_not_the_collective_that_broke_with_it():
    with pytest.raises(RunError) as raised:
        lost.reason(group({0: BROKEN, 1: ValueError("bad label"), 2: BROKEN}))
    first, *rest = str(raised.value).splitlines()
    assert first == "training failed on rank 1: ValueError('bad label')"
    assert "Traceback: ..." in rest, "a bug comes with its traceback"


def test_our_own_error_comes_as_it_is():
    ours = DataError("sha256 mismatch: shard 3", do="dvc repro ingest")
    with pytest.raises(DataError, match="sha256 mismatch") as raised:
        lost.reason(group({0: BROKEN, 1: ValueError("later"), 2: ours}))
    assert raised.value is ours


def test_a_bug_in_ray_s_side_of_the_group_is_no_loss():
    with pytest.raises(RunError, match=r"Ray could not run the workers: (.|\n)*a callback is wrong"):
        lost.reason(ControllerError(ValueError("a callback is wrong")))


def test_a_full_cluster_is_told_from_a_lost_worker():
    assert lost.is_full(ControllerError(of_train.WorkerGroupStartupTimeoutError(2)))
    assert not lost.is_full(ControllerError(DEAD))
    assert not lost.is_full(group({0: DEAD}))
