"""A model by its name: from a registry of a test's own, and from folders."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import files
from pipelines.errors import DataError
from pipelines.inference import package
from pipelines.registry.fetch import WITHIN, fetch
from pipelines.registry.versions import Registry
from pipelines.tracking import Run, Server
from tests.packages import lights


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose registry holds one version, the champion."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        lights(folder / "results/train")
        files.write_json(folder / "results/evaluate/metrics.json", {"semantic": {"miou": 0.5}, "weights": sha(folder)})
        server = Server(folder)
        registry = Registry(server, "night-semantic", "")

        def write(model: Path, model_id: str) -> None:
            shutil.copytree(folder / "results/train", model / WITHIN)
            shutil.copy(folder / "results/evaluate/metrics.json", model / WITHIN)

        with Run.start(folder, name="train") as run:
            version = registry.create(write, run=run, weights=sha(folder), tags={}, params={}, description="")
        server.set_registered_model_alias("night-semantic", "champion", str(version))
        yield folder


def sha(root: Path) -> str:
    return str(package.describe(root / "results/train")["weights"]["sha256"])


@pytest.mark.parametrize("name", ["models:/night-semantic@champion", "models:/night-semantic/1"])
def test_a_version_is_downloaded_once(root: Path, name: str) -> None:
    found = fetch(name, root)
    assert (found.name, found.metrics["semantic"]) == ("night-semantic 1", {"miou": 0.5})
    assert package.load(found.folder).description["weights"]["sha256"] == sha(root)
    written = (found.folder / package.WEIGHTS).stat().st_mtime_ns
    assert (fetch(name, root).folder / package.WEIGHTS).stat().st_mtime_ns == written
    (found.folder / package.DESCRIPTION).unlink()  # as a download that was cut would leave it, were it not renamed
    assert package.load(fetch(name, root).folder).task == "semantic"


def test_a_folder_comes_with_what_was_measured_of_it(root: Path) -> None:
    found = fetch("results/train", root)
    assert (found.folder, found.metrics["semantic"]) == ((root / "results/train").resolve(), {"miou": 0.5})
    files.write_json(root / "results/evaluate/metrics.json", {"semantic": {"miou": 0.9}, "weights": "another's"})
    assert fetch("results/train", root).metrics == {}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("models:/night-semantic", "names no model\\ndo: write models:/name@alias"),
        ("models:/night-semantic@challenger", "is not in the registry: .*challenger.*\\ndo: register one"),
        ("models:/night-semantic/7", "is not in the registry"),
        ("models:/nobody@champion", "is not in the registry"),
        ("results/nowhere", "model.json is missing"),
    ],
)
def test_names_that_lead_nowhere(root: Path, name: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        fetch(name, root)
