"""MLflow runs, without MLflow's global state: every call names its server and its run.

MLflow is imported inside the functions (two seconds that a wrong parameter need not wait for). What a server that is
away, or a database that another process holds, does to a stage is decided here: a bounded wait, then one message.
"""

import contextlib
import fcntl
import functools
import json
import logging
import os
import re
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from pipelines.errors import RunError

EXPERIMENT = "maskline"
# MLflow's own limits.
KEY_LENGTH, PARAM_LENGTH, TAG_LENGTH = 250, 6000, 8000
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000
ATTEMPTS = 3  # at a locked SQLite file, for which MLflow waits 20 s each time
SETTINGS = {
    # Its HTTP client would wait minutes for an absent server.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for every trial
}


def uri(root: Path) -> str:
    """Where runs and the registry are: $MLFLOW_TRACKING_URI, else a database in the project's folder.

    Always absolute: Ray's workers run in other folders.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    relative = re.fullmatch(r"(sqlite(?:\+\w+)?:///)([^/:].*)", given)
    return f"{relative[1]}{root.resolve() / relative[2]}" if relative else given


def prepare(root: Path) -> None:
    """Create the database and the experiment, once, whoever comes first."""
    Server(root)


def find(root: Path, tag: str, value: str) -> str | None:
    """The id of the newest finished run that carries the tag."""
    server = Server(root)
    query = f"attributes.status = 'FINISHED' and tags.`{tag}` = '{value}'"
    runs = server.search_runs([server.experiment], query, max_results=1, order_by=["attributes.start_time DESC"])
    return runs[0].info.run_id if runs else None


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}, with the characters that MLflow refuses in a name replaced."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + re.sub(r"[^\w\-. :]", "_", str(key))
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name[:KEY_LENGTH]] = value
    return flat


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The flattened metrics that are finite numbers: MLflow sorts a NaN first, and stores no None."""
    flat = flatten(metrics)
    numeric = {k: float(v) for k, v in flat.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: v for k, v in numeric.items() if abs(v) < float("inf")}


def texts(params: Mapping[str, Any]) -> dict[str, str]:
    """Flattened parameters as they read in YAML; one that is too long keeps its start and says how long it was."""

    def text(value: Any) -> str:
        said = value if isinstance(value, str) else json.dumps(value, default=str)
        return said if len(said) <= PARAM_LENGTH else f"{said[: PARAM_LENGTH - 40]} ... {len(said)} characters"

    return {name: text(value) for name, value in flatten(params).items()}


def revision(root: Path) -> tuple[str, bool]:
    """The git commit of the code and whether files differ from it; ("unknown", False) outside a repository.

    dvc.lock is left out: `dvc repro` rewrites it while the stages run.
    """

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *args], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", ".", ":!dvc.lock"))
    except (OSError, subprocess.SubprocessError):
        return "unknown", False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel drops the lock of a killed one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Server:
    """MlflowClient, with every failure as one RunError that says where, and the experiment made."""

    def __init__(self, root: Path):
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        import mlflow

        # Its warnings repeat what is raised, with a traceback.
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        self.uri = uri(root)
        self._artifacts = (root.resolve() / "mlartifacts").as_uri()
        self.database = _database(self.uri)
        with contextlib.ExitStack() as stack:
            if self.database is not None:
                # Two processes that migrate one fresh database leave it unusable.
                stack.enter_context(_saying(self.uri, OSError))
                stack.enter_context(locked(self.database.with_name(f"{self.database.name}.lock")))
                _usable(self.uri, self.database, functools.partial(self._create, mlflow.MlflowClient))
            self._client = self.ask(mlflow.MlflowClient, tracking_uri=self.uri)
            self.experiment: str = self._experiment()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """MlflowClient's methods."""
        if name.startswith("_"):
            raise AttributeError(name)
        return functools.partial(self.ask, getattr(self._client, name))

    def ask(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        for _ in range(ATTEMPTS - 1):
            try:
                return self._said(call, *args, **kwargs)
            except RunError as error:
                if "database is locked" not in str(error):
                    raise
        return self._said(call, *args, **kwargs)

    def _said(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with _saying(self.uri, OSError):
            return call(*args, **kwargs)

    def _create(self, client: Callable[..., Any], beside: Path) -> None:
        self.ask(client(tracking_uri=f"sqlite:///{beside}").create_experiment, EXPERIMENT, self._artifacts)

    def _experiment(self) -> str:
        # A server that is reached over HTTP knows where its artifacts go.
        place = None if self.uri.startswith("http") else self._artifacts
        found = self.first(
            lambda: self.get_experiment_by_name(EXPERIMENT),
            lambda: self.create_experiment(EXPERIMENT, artifact_location=place),
        )
        return str(found.experiment_id)

    def first(self, find: Callable[[], Any], make: Callable[[], Any]) -> Any:
        """What there is, else what is made now, by this process or by one that was faster."""
        if (found := find()) is None:
            try:
                make()
            except RunError:
                if (found := find()) is None:
                    raise
        return found or find()


class Run:
    """One run, by its id. As a context manager it ends FINISHED, FAILED by an exception, KILLED by a signal."""

    def __init__(self, server: Server, run_id: str):
        self.server = server
        self.id = run_id

    @classmethod
    def start(cls, root: Path, *, name: str, tags: Mapping[str, Any] | None = None, parent: str | None = None) -> "Run":
        server = Server(root)
        _end_the_dead(server)
        commit, dirty = revision(root)
        about = {
            "maskline.process": _process(),
            "maskline.git.dirty": str(dirty).lower(),
            "mlflow.source.git.commit": commit,
            **({"mlflow.parentRunId": parent} if parent else {}),
            **{k: str(v) for k, v in (tags or {}).items()},
        }
        return cls(server, server.create_run(server.experiment, tags=about, run_name=name).info.run_id)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Nested parameters, by dotted names."""
        from mlflow.entities import Param

        rows = [Param(name, value) for name, value in texts(params).items()]
        for at in range(0, len(rows), PARAMS_PER_CALL):
            self.server.log_batch(self.id, params=rows[at : at + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Mapping[str, Any], step: int, model_id: str | None = None) -> None:
        """Nested metrics, by dotted names, of the run and of a logged model; what is no number is left out."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        rows = [Metric(name, value, now, step, model_id=model_id) for name, value in numbers(metrics).items()]
        for at in range(0, len(rows), METRICS_PER_CALL):
            self.server.log_batch(self.id, metrics=rows[at : at + METRICS_PER_CALL])

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self.server.log_batch(self.id, tags=[RunTag(name, str(value)[:TAG_LENGTH]) for name, value in tags.items()])

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


def _database(where: str) -> Path | None:
    """The file of a SQLite URI."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", where)
    return Path(found[1]) if found and found[1] != ":memory:" else None


def _usable(where: str, database: Path, create: Callable[[Path], None]) -> None:
    """Make the database where there is none, whole at once; find out in time that it cannot be written (MLflow itself
    tries for two minutes)."""
    if not database.exists():
        beside = database.with_name(f".{database.name}.new")
        beside.unlink(missing_ok=True)
        create(beside)
        beside.replace(database)
    with _saying(where, sqlite3.Error), contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.rollback()


@contextlib.contextmanager
def _saying(where: str, *others: type[Exception]) -> Iterator[None]:
    """MLflow's failures as a RunError with the place, and without a password in it."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, *others) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        said = re.sub("//[^/@ ]*@", "//***@", f"MLflow at {where} failed: {lines[0][:400]}")
        do = "see that it runs and can be written to, or set MLFLOW_TRACKING_URI; then run the stage again"
        raise RunError(f"{said}\ndo: {do}") from None


def _process() -> str:
    """Which process logs: a run of one that is gone will never end by itself."""
    return f"{socket.gethostname()}/{os.getpid()}/{psutil.Process().create_time():.0f}"


def _end_the_dead(server: Server) -> None:
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
