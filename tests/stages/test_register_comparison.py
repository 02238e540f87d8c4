"""The page that holds a version against the champion it met, as the stage leaves it, and MLflow."""

from pathlib import Path

import pytest

from pipelines import environment, files
from pipelines.stage import Paths
from stages import register
from tests.registry.line import Line, params
from tests.reporting.test_report import Page

environment.prepare()


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    made = Line(tmp_path_factory.mktemp("project"), "comparison")
    made.ingest(0)
    return made


def page(line: Line) -> Path:
    return line.root / "results/register" / register.COMPARISON


def artifacts(line: Line, run: str, folder: str) -> set[str]:
    return {file.path for file in line.server.list_artifacts(run, folder)}


def test_a_version_is_held_against_the_champion(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The story of a page: none without a champion, one with it, in MLflow as well, and none that is out of date."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line.add(1, 0.5)
    assert not page(line).exists(), "there is nobody to compare with"

    files.write_text(line.root / "results/evaluate/plots/figures/confusion.svg", "<svg/>")
    decision = line.add(2, 0.6)
    text = " ".join(Page(page(line).read_text()).text.split())
    assert "version 2 against version 1" in text
    assert "Promoted (gain)" in text
    assert "+0.100 95 %: +0.100 to +0.100" in text
    assert "Both on cpu" in text
    shown = Page(page(line).read_text()).all("img")
    assert len(shown) == 3 * 6, "each image was easier for the second: three of them are shown"
    assert artifacts(line, decision["run"], "comparisons/with-version-1") == {
        "comparisons/with-version-1/comparison.html"
    }
    (kept,) = artifacts(line, decision["run"], "evaluations")
    assert f"{kept}/confusion.svg" in artifacts(line, decision["run"], kept)

    paths = Paths(root=line.root, out=line.root / "results/.register")
    paths.out.mkdir()
    register.run(params(line.name), paths)
    assert not (paths.out / register.COMPARISON).exists(), "the champion itself meets nobody"
    for finish in paths.finished:
        finish()
    assert not page(line).exists(), "what is said of an earlier registration is gone"

    (package,) = (line.root / "mlartifacts").rglob(f"{line.registry.model_id(2)}/artifacts/artifacts/package")
    files.remove(package)
    line.add(3, 0.7)
    found = Page(page(line).read_text())
    assert "+0.100" in found.text
    assert not found.all("img"), "a champion whose files are gone has numbers on record and no pictures"
