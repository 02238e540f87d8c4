"""One MLflow run: what it is told, how it ends, and what becomes of those whose process was killed."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pipelines.errors import RunError
from pipelines.tracking.flat import TAG_LENGTH, numbers, texts
from pipelines.tracking.server import Server
from pipelines.tracking.source import revision

KEY = "maskline.key"  # the tag that tells one run from all others, before MLflow has given it an id
PARAMS_PER_CALL, METRICS_PER_CALL, DIGEST_LENGTH = 100, 1000, 36  # MLflow's own limits
Point = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


class Run:
    """One run, by its id. As a context manager it ends FINISHED, FAILED by an exception, KILLED by a signal."""

    def __init__(self, server: Server, run_id: str):
        self.server = server
        self.id = run_id

    @classmethod
    def start(cls, root: Path, *, name: str, tags: Mapping[str, Any] | None = None, parent: str | None = None) -> "Run":
        server = Server(root)
        end_the_dead(server)
        return cls._create(server, name, _about(root, tags, parent))

    @classmethod
    def once(
        cls, server: Server, root: Path, *, key: str, name: str, tags: Mapping[str, Any], parent: str | None = None
    ) -> "Run":
        """The run that carries the key, going on; else one that is started now. However often it is asked, and whatever
        answer was lost on the way, there is one."""
        query = f"tags.`{KEY}` = '{key}'"
        if known := server.search_runs([server.experiment], query, max_results=1):
            run = cls(server, known[0].info.run_id)
            run.set_tags({"maskline.process": _process()})
            server.update_run(run.id, "RUNNING")
            return run
        return cls._create(server, name, _about(root, {**tags, KEY: key}, parent))

    @classmethod
    def _create(cls, server: Server, name: str, tags: Mapping[str, str]) -> "Run":
        return cls(server, server.create_run(server.experiment, tags=tags, run_name=name).info.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested parameters, by dotted names."""
        self.log_texts(texts(params))

    def log_texts(self, params: Mapping[str, str]) -> None:
        """Parameters as `texts` gives them."""
        from mlflow.entities import Param

        rows = [Param(name, value) for name, value in params.items()]
        for at in range(0, len(rows), PARAMS_PER_CALL):
            self.server.log_batch(self.id, params=rows[at : at + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, Any], step: int, model_id: str | None = None) -> None:
        """Nested metrics, by dotted names, of the run and of a logged model; what is no number is left out."""
        now = milliseconds()
        self.log_points([(name, value, now, step) for name, value in numbers(metrics).items()], model_id)

    def log_points(self, points: list[Point], model_id: str | None = None) -> None:
        """What is told twice is kept once: to MLflow the same name, value, time and step are the same point."""
        from mlflow.entities import Metric

        rows = [Metric(*point, model_id=model_id) for point in points]
        for at in range(0, len(rows), METRICS_PER_CALL):
            self.server.log_batch(self.id, metrics=rows[at : at + METRICS_PER_CALL])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.server.log_batch(self.id, tags=[RunTag(name, str(value)[:TAG_LENGTH]) for name, value in tags.items()])

    def log_dataset(self, dataset: Mapping[str, Any], *, context: str) -> None:
        """What it was trained or measured on, by its hash, as MLflow's lineage has it."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        entity = Dataset(
            name=dataset["name"],
            digest=dataset["hash"][:DIGEST_LENGTH],
            source_type="maskline",
            source=json.dumps({"manifest": "results/ingest/dataset.json", **dataset}, sort_keys=True),
        )
        self.server.log_inputs(self.id, [DatasetInput(entity, [InputTag("mlflow.data.context", context)])])

    def artifacts(self, path: Path, folder: str | None = None) -> None:
        """Upload a file, or all that is in a folder."""
        log = self.server.log_artifacts if path.is_dir() else self.server.log_artifact
        log(self.id, str(path), folder)

    def finish(self, status: str = "FINISHED") -> None:
        self.server.set_terminated(self.id, status)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.finish()
            return
        with contextlib.suppress(RunError):  # what went wrong first is what has to be said
            self.finish("FAILED" if issubclass(kind, Exception) else "KILLED")


def find(root: Path, tag: str, value: str) -> str | None:
    """The id of the newest finished run that carries the tag."""
    server = Server(root)
    query = f"attributes.status = 'FINISHED' and tags.`{tag}` = '{value}'"
    runs = server.search_runs([server.experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
    return runs[0].info.run_id if runs else None


def end_the_dead(server: Server) -> None:
    """Runs of killed processes of this machine stay RUNNING for ever: mark them KILLED."""
    for run in server.search_runs([server.experiment], "attributes.status = 'RUNNING'"):
        host, _, rest = run.data.tags.get("maskline.process", "").partition("/")
        if host != socket.gethostname():
            continue
        pid, _, born = rest.partition("/")
        try:
            alive = abs(psutil.Process(int(pid)).create_time() - float(born)) < 2
        except psutil.NoSuchProcess:
            alive = False
        if not alive:
            server.set_terminated(run.info.run_id, "KILLED")


def milliseconds() -> int:
    """MLflow's clock."""
    return time.time_ns() // 1_000_000


def _about(root: Path, tags: Mapping[str, Any] | None, parent: str | None) -> dict[str, str]:
    commit, dirty = revision(root)
    return {
        "maskline.process": _process(),
        "maskline.git.dirty": str(dirty).lower(),
        "mlflow.source.git.commit": commit,
        **({"mlflow.parentRunId": parent} if parent else {}),
        **{k: str(v) for k, v in (tags or {}).items()},
    }


def _process() -> str:
    """Which process logs: a run of one that is gone will never end by itself."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.0f}"
