"""Where the work of an ingest is done: in this process, or by Ray Data on this machine's cores or a whole cluster.

Only plans and sums travel through Ray: each worker reads its images and writes its shards itself, so memory is bounded
by the workers and not by the dataset. Ray takes longer to start than a few images take to read, so it is left out where
there are no more than those.
"""

import logging
import pickle
import queue
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Protocol

from pipelines.cluster import cluster, sharing
from pipelines.cluster.sharing import Shared
from pipelines.errors import MasklineError

FEW = 200  # images


class Task(Protocol):
    """Picklable; holds processes and files, in the process that it is called in, until it is closed."""

    def __call__(self, job: Any, /) -> Any: ...
    def close(self) -> None: ...


class Engine:
    """A context manager: Ray, once it was needed, runs until the end, and its nodes see what they `share`."""

    def __init__(self, workers: int, share: Shared):
        self.workers, self.share = workers, share
        self._ray: ExitStack | None = None

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: Any) -> None:
        if self._ray is not None:
            self._ray.__exit__(*error)

    def run(self, task: Task, jobs: Sequence[Any], *, images: int) -> Generator[Any, None, None]:
        """task(job) of each job, in order; `images` says how many there are to read in all."""
        if self.workers == 1 or images <= FEW:
            yield from _here(task, jobs)
            return
        if self._ray is None:
            self._ray = ExitStack()
            self._ray.enter_context(_ray(self.workers))
            sharing.check(self.share)
        yield from _on_ray(task, jobs, self.workers)


def _ray(cpus: int) -> AbstractContextManager[None]:
    """A Ray for this ingest; one that runs already in this process is its owner's to end."""
    ray = sys.modules.get("ray")  # not imported here: `cluster` does, when the environment is set for it
    return nullcontext() if ray is not None and ray.is_initialized() else cluster(cpus=cpus)


def _here(task: Task, jobs: Sequence[Any]) -> Generator[Any, None, None]:
    try:
        for job in jobs:
            yield task(job)
    finally:
        task.close()


def _on_ray(task: Task, jobs: Sequence[Any], workers: int) -> Generator[Any, None, None]:
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    rows = [{"job": pickle.dumps(job)} for job in jobs]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _work,
        fn_kwargs={"task": pickle.dumps(task)},
        batch_size=1,
        num_cpus=1,
        compute=ray.data.TaskPoolStrategy(size=min(workers, len(rows))),
    )
    for result in pulled(data):
        found = pickle.loads(result)  # noqa: S301 - what our own worker has sent
        if isinstance(found, MasklineError):
            raise found
        yield found


def pulled(data: Any) -> Iterator[bytes]:
    """The rows' results, waited for here while another thread is inside Ray Data: an interrupt that comes there, in one
    of its callbacks, is lost, and the work goes on."""
    results: queue.Queue[bytes | BaseException | None] = queue.Queue(maxsize=64)

    def pull() -> None:
        try:
            for row in data.iter_rows():
                results.put(row["result"])
            results.put(None)
        except BaseException as error:
            results.put(error)

    threading.Thread(target=pull, daemon=True).start()
    while True:
        try:
            result = results.get(timeout=0.5)
        except queue.Empty:
            continue
        if result is None:
            return
        if isinstance(result, BaseException):
            raise result
        yield result


_held: dict[bytes, Task] = {}  # a worker process of Ray is used for one job after the other


def _work(batch: dict[str, Any], *, task: bytes) -> dict[str, Any]:
    if task not in _held:
        for other in _held.values():
            other.close()
        _held.clear()
        _held[task] = pickle.loads(task)  # noqa: S301 - what our own driver has sent
    return {"result": [pickle.dumps(answer(_held[task], pickle.loads(job))) for job in batch["job"]]}  # noqa: S301


def answer(task: Task, job: Any) -> Any:
    """What a user can mend comes back as it is: Ray would wrap it in an error of its own, with a trace."""
    try:
        return task(job)
    except MasklineError as error:
        return error
