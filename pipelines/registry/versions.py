"""Versions that hold one set of weights each, and the aliases `champion` and `challenger`.

Every step can be repeated. A stage that was killed between two of them finds what it had done, by the weights' hash,
and goes on.
"""

import contextlib
import datetime
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.errors import PromotionError
from pipelines.files import locked
from pipelines.promotion import Decision
from pipelines.tracking import TAG_LENGTH, Run, Server, texts

WEIGHTS = "maskline.weights"


class Registry:
    """All versions of one model."""

    def __init__(self, server: Server, name: str, description: str):
        self.server, self.name = server, name
        server.first(self._model, lambda: server.create_registered_model(name, description=description))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One promotion at a time, as far as a file can tell; `promote` guards the rest."""
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

    def newest(self) -> int:
        return max(int(v.version) for v in self.server.search_model_versions(f"name = '{self.name}'"))

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

    def promote(self, version: int, decision: Decision, before: Mapping[str, int]) -> dict[str, int]:
        """Write the decision down, then move the aliases; they are `before` no longer only if someone else moved them.

        An alias moves in one step: `champion` is the old version or the new one, never neither.
        """
        if (now := self.aliases().get("champion")) != before.get("champion"):
            raise PromotionError(
                f"the champion of {self.name} changed from version {before.get('champion')} to {now} meanwhile\n"
                "do: run register again"
            )
        if decision.rule != "same weights":  # else the version says already how it became champion
            self.tag(version, _audit(decision, before))
        if decision.promoted:
            self._set("champion", version)
        newest = self.newest()
        self._set("challenger", newest if newest != self.aliases().get("champion") else None)
        return self.aliases()

    def _set(self, alias: str, version: int | None) -> None:
        held = self.aliases().get(alias)
        if version is not None and held != version:
            self.server.set_registered_model_alias(self.name, alias, str(version))
        elif version is None and held is not None:
            self.server.delete_registered_model_alias(self.name, alias)

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


def _audit(decision: Decision, before: Mapping[str, int]) -> dict[str, str]:
    champion = before.get("champion")
    return {
        "maskline.decision": f"{'promoted' if decision.promoted else 'refused'}: {decision.rule}",
        "maskline.reason": decision.reason,
        "maskline.against": "no champion" if champion is None else f"version {champion}",
        "maskline.decided_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
