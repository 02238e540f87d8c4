"""Versions that hold one set of weights each, and the aliases `champion` and `challenger`.

Every step can be repeated. A stage that was killed between two of them finds what it had done, by the weights' hash,
and goes on.
"""

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import RunError
from pipelines.files import locked
from pipelines.registry.audit import Audit
from pipelines.tracking import TAG_LENGTH, Run, Server, texts

WEIGHTS, AUDIT = "maskline.weights", "maskline.audit"  # tags: of a version, of a model
CHAMPION, CHALLENGER = "champion", "challenger"


class Registry:
    """All versions of one model."""

    def __init__(self, server: Server, name: str, root: Path):
        self.server, self.name = server, name
        found = self._model()
        if found is None or AUDIT not in found.tags:
            self._begin(root)

    @functools.cached_property
    def audit(self) -> Audit:
        """The log of its decisions."""
        return Audit(self.server, str(self._model().tags[AUDIT]))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One promotion at a time, as far as a file can tell: it saves work. That two cannot both win is the audit's
        to see to."""
        database = self.server.database
        lock = locked(database.with_name(f"{database.name}.register.lock")) if database else contextlib.nullcontext()
        with lock:
            yield

    def aliases(self) -> dict[str, int]:
        return {alias: int(version) for alias, version in sorted(self._model().aliases.items())}

    def version(self, number: int) -> Any:
        return self.server.get_model_version(self.name, str(number))

    def model_id(self, number: int) -> str:
        """The logged model behind a version."""
        return str(self.version(number).source).removeprefix("models:/")

    def holding(self, weights: str) -> int | None:
        """The version of these weights."""
        query = f"name = '{self.name}' and tags.`{WEIGHTS}` = '{weights}'"
        found = self.server.search_model_versions(query)
        return min((int(v.version) for v in found), default=None)

    def newest(self) -> int | None:
        found = self.server.search_model_versions(f"name = '{self.name}'")
        return max((int(v.version) for v in found), default=None)

    def create(
        self,
        write: Callable[[Path, str], None],
        *,
        run: Run,
        weights: str,
        tags: Mapping[str, str],
        params: Mapping[str, Any],
        description: str,
    ) -> int:
        """Upload what `write(folder, model_id)` makes, then register it; the version comes with its tags."""
        model_id = self._logged(weights) or self._upload(write, run, {**tags, WEIGHTS: weights}, params)
        with _named_globally(self.server.uri):
            made = self.server.create_model_version(
                self.name,
                f"models:/{model_id}",
                run_id=run.id,
                tags={**tags, WEIGHTS: weights},
                description=description,
                model_id=model_id,
            )
        return int(made.version)

    def tag(self, version: int, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.server.set_model_version_tag(self.name, str(version), key, value[:TAG_LENGTH])

    def download(self, version: int, path: str, into: Path) -> Path:
        """A part of a version's files."""
        from mlflow.artifacts import download_artifacts

        place = self.server.get_model_version_download_uri(self.name, str(version))
        return Path(
            self.server.ask(
                download_artifacts,
                artifact_uri=f"{place}/{path}",
                dst_path=str(into),
                tracking_uri=self.server.uri,
            )
        )

    def place(self, alias: str, version: int | None) -> None:
        """In one step: the alias is the old version or the new one, never neither."""
        held = self.aliases().get(alias)
        if version is not None and held != version:
            self.server.set_registered_model_alias(self.name, alias, str(version))
        elif version is None and held is not None:
            self.server.delete_registered_model_alias(self.name, alias)

    def exists(self, version: int) -> bool:
        query = f"name = '{self.name}'"
        return any(int(v.version) == version for v in self.server.search_model_versions(query))

    def describe(self, text: str, version: int | None = None) -> None:
        """What the model's page says, or a version's."""
        if version is None:
            if self._model().description != text:
                self.server.update_registered_model(self.name, text)
        elif self.version(version).description != text:
            self.server.update_model_version(self.name, str(version), text)

    def label(self, tags: Mapping[str, str]) -> None:
        """Tags of the model itself."""
        held = self._model().tags
        for key, value in tags.items():
            if held.get(key) != value:
                self.server.set_registered_model_tag(self.name, key, value[:TAG_LENGTH])

    def _begin(self, root: Path) -> None:
        """The model and its audit, in one step: of two processes that begin it, one's audit is in its tags."""
        run = Run.once(
            self.server,
            root,
            key=f"audit/{self.name}",
            name=f"audit of {self.name}",
            tags={"maskline.stage": "audit", "maskline.registered": self.name},
        )
        run.finish()
        if self._model() is not None:  # of a registry from before there was an audit
            self.server.set_registered_model_tag(self.name, AUDIT, run.id)
            return
        try:
            self.server.create_registered_model(self.name, tags={AUDIT: run.id})
        except RunError:
            if self._model() is None:
                raise

    def _model(self) -> Any:
        found = self.server.search_registered_models(f"name = '{self.name}'")
        return found[0] if found else None

    def _logged(self, weights: str) -> str | None:
        """The model of an upload that was completed, and never registered."""
        query = f"tags.`{WEIGHTS}` = '{weights}'"
        models = [m for m in self.server.search_logged_models([self.server.experiment], query) if m.name == self.name]
        for abandoned in (m for m in models if m.status == "PENDING"):
            self.server.finalize_logged_model(abandoned.model_id, "FAILED")
        return next((m.model_id for m in models if m.status == "READY"), None)

    def _upload(
        self, write: Callable[[Path, str], None], run: Run, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> str:
        from mlflow.entities import LoggedModelOutput

        logged = self.server.create_logged_model(
            self.server.experiment, self.name, source_run_id=run.id, tags=dict(tags), params=texts(params)
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                write(Path(folder) / "model", logged.model_id)
                self.server.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        except BaseException:
            with contextlib.suppress(Exception):
                self.server.finalize_logged_model(logged.model_id, "FAILED")
            raise
        self.server.finalize_logged_model(logged.model_id, "READY")
        self.server.log_outputs(run.id, [LoggedModelOutput(logged.model_id, 0)])
        return str(logged.model_id)


@contextlib.contextmanager
def _named_globally(uri: str) -> Iterator[None]:
    """MLflow's own registry looks a `models:/` source up where the environment says, not where its client does."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = uri
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI")
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before
