"""rollback: the alias goes back, the audit says so, and what was taken back stays so."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import environment, files
from pipelines.errors import DataError, InputError
from tests.registry.line import REPOSITORY, Line, begun, raw, verdict

environment.prepare()


@pytest.fixture
def line(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return begun(tmp_path, request.node.name)


def test_a_rollback_gives_the_alias_back_and_is_written_down(line: Line) -> None:
    for seed, miou in ((1, 0.5), (2, 0.6), (3, 0.7)):
        line.add(seed, miou)
    said = line.rollback("misses poles at night")
    assert said == {"rolled back": f"{line.model} from version 3 to version 2: misses poles at night"}
    assert line.aliases() == {"champion": 2, "challenger": 3}
    decision = line.register()
    assert verdict(decision) == (3, False, "rolled back", {"champion": 2, "challenger": 3})
    assert "misses poles at night (python -m stages.rollback --to 3 restores it)" in decision["decision"]["reason"]
    line.rollback("and so does this one")
    assert line.aliases()["champion"] == 1, "the one before, not the one that was just left"
    with pytest.raises(InputError, match="has no champion before version 1\ndo: --to one of 2, 3"):
        line.rollback("again")
    line.rollback("night is over", to=3)
    assert line.aliases() == {"champion": 3}
    assert verdict(line.register()) == (3, True, "same weights", {"champion": 3})
    assert [(e.what, e.before, e.after) for e in line.decisions()[3:]] == [
        ("rolled back", 3, 2), ("refused", 2, 2), ("rolled back", 2, 1), ("rolled back", 1, 3),
    ]  # fmt: skip
    for told in ("misses poles at night", "and so does this one", "night is over"):
        assert told in line.page()
    for version, says in ((9, "was never champion, or is there no longer"), (3, "is champion already")):
        with pytest.raises(InputError, match=rf"version {version} of .* {says} \(allowed: 1, 2\)"):
            line.rollback("x", to=version)
    with pytest.raises(InputError, match="needs a reason"):
        line.rollback(" ")


def test_a_version_whose_files_are_damaged_is_not_rolled_back_to(line: Line) -> None:
    line.add(1, 0.5)
    place = line.server.get_model_version_download_uri(line.model, "1").removeprefix("file://")
    line.add(2, 0.6)
    weights = Path(place) / "artifacts/package/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"version 1 cannot be loaded .*sha256 mismatch"):
        line.rollback("worse")
    assert line.aliases() == {"champion": 2}
    assert len(line.decisions()) == 2


def test_the_command_asks_for_a_reason(line: Line) -> None:
    files.write_yaml(line.root / "params.yaml", raw(line.name))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); "
         "from stages import rollback; rollback.main()"],
        cwd=line.root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--why" in done.stderr
    assert not (line.root / "mlflow.db").exists()
