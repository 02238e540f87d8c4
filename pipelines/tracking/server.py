"""MLflow's server, or its database. What one that is away, or held by another process, does to a stage is decided here:
a bounded wait, then one message.
"""

import contextlib
import functools
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipelines.errors import RunError
from pipelines.files import locked

EXPERIMENT = "maskline"
ATTEMPTS = 3  # at a locked SQLite file, for which MLflow waits 20 s each time
PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")  # MLflow's error codes
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


class Unreachable(RunError):
    """MLflow cannot be asked now; later it may answer again. Any other RunError of this module is its answer."""


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
            except Unreachable as error:
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
        raise (Unreachable if _passes(where, error) else RunError)(f"{said}\ndo: {do}") from None


def _passes(where: str, error: Exception) -> bool:
    """Whether the same call may succeed later: the server is away or overloaded, another process holds the database."""
    if where.startswith("sqlite"):
        return any(said in str(error) for said in ("is locked", "disk is full", "disk I/O error"))
    return isinstance(error, OSError) or getattr(error, "error_code", "") in PASSING
