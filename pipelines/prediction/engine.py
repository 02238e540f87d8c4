"""Where the work is done: in this process where it is little, else by actors of Ray Data that hold a model each."""

import logging
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipelines.cluster import cluster, sharing
from pipelines.cluster.room import nodes, workers_held
from pipelines.data.ingest.engine import answer, pulled
from pipelines.errors import ConfigError, MasklineError
from pipelines.prediction.work import Job, Predicting

FEW = 64  # images: predicted before Ray has started
LOOK = 0.5  # seconds between two looks at how far it is


def run(
    task: Predicting,
    jobs: Sequence[Job],
    *,
    images: int,
    workers: int,
    device: str,
    every: Callable[[], None],
) -> None:
    """task(job) of all jobs; `every` is called now and then. `workers` 0: as many as there is room for."""
    with _ticking(every):
        if workers == 1 or images <= FEW or len(jobs) < 2:
            _here(task, jobs)
        else:
            with cluster(cpus=workers or os.cpu_count() or 1):
                _on_ray(task, jobs, workers, device)


def _here(task: Predicting, jobs: Sequence[Job]) -> None:
    try:
        for job in jobs:
            task(job)
    finally:
        task.close()


def _on_ray(task: Predicting, jobs: Sequence[Job], workers: int, device: str) -> None:
    import ray.data

    sharing.check(sharing.Shared(state=task.options.out, sizes=tuple(sorted(task.options.package.iterdir()))))
    gpus = workers_held(nodes(), gpu=True) if device != "cpu" else 0
    if device == "cuda" and not gpus:
        raise ConfigError("predict.device is cuda, and Ray knows of no GPU", do="set predict.device to auto or cpu")
    room = gpus or workers_held(nodes(), gpu=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"job": pickle.dumps(job)} for job in jobs]
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        fn_kwargs={"task": pickle.dumps(task)},
        batch_size=1,
        num_cpus=1,
        num_gpus=1 if gpus else 0,
        compute=ray.data.ActorPoolStrategy(size=max(1, min(workers or room, room, len(rows)))),
    )
    for result in pulled(data):
        found = pickle.loads(result)  # noqa: S301 - what our own worker has sent
        if isinstance(found, MasklineError):
            raise found


class _Actor:
    """One worker of Ray's, from its first job on."""

    task: Predicting | None = None

    def __call__(self, batch: dict[str, Any], *, task: bytes) -> dict[str, Any]:
        self.task = self.task or pickle.loads(task)  # noqa: S301 - what our own driver has sent
        return {"result": [pickle.dumps(answer(self.task, pickle.loads(job))) for job in batch["job"]]}  # noqa: S301


@contextmanager
def _ticking(every: Callable[[], None]) -> Iterator[None]:
    over = threading.Event()

    def tick() -> None:
        while not over.wait(LOOK):
            every()

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
