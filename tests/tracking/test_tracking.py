"""Runs in a real SQLite database: what is written, how a run ends, who may come first, and what goes wrong."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipelines import environment, tracking
from pipelines.errors import RunError
from pipelines.tracking import Run, Server

REPOSITORY = Path(__file__).parents[2]
environment.prepare()


def child(code: str, *args: object) -> "subprocess.Popen[str]":
    """A process of its own, as a worker or another stage would be."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; from pathlib import Path; from pipelines import tracking\n{code}", *args],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a project, 100%")


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_importing_it_is_cheap() -> None:
    process = child("sys.exit('mlflow' in sys.modules)")
    assert process.wait() == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "sqlite:///{root}/mlflow.db"),
        ("", "sqlite:///{root}/mlflow.db"),
        ("sqlite:///runs/all.db", "sqlite:///{root}/runs/all.db"),
        ("sqlite:////var/all.db", "sqlite:////var/all.db"),
        ("http://tracker:5000", "http://tracker:5000"),
    ],
)
def test_the_uri_is_absolute(given: str | None, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if given is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking.uri(tmp_path) == expected.format(root=tmp_path)


def test_parameters_read_as_in_yaml() -> None:
    params = {"train": {"lr": 1e-4, "crop": [128, 64], "flip": True, "root": None}, "name": "unet", "none": {}}
    assert tracking.texts(params) == {
        "train.lr": "0.0001",
        "train.crop": "[128, 64]",
        "train.flip": "true",
        "train.root": "null",
        "name": "unet",
        "none": "{}",
    }


def test_a_long_parameter_keeps_its_start_and_its_length() -> None:
    (said,) = tracking.texts({"x": "y" * 9000}).values()
    assert len(said) <= tracking.PARAM_LENGTH
    assert said.startswith("yyy")
    assert said.endswith("... 9000 characters")


def test_only_finite_numbers_are_metrics() -> None:
    metrics = {"a": 1, "b": 0.5, "nan": math.nan, "inf": -math.inf, "none": None, "flag": True, "text": "1"}
    assert tracking.numbers(metrics) == {"a": 1.0, "b": 0.5}


def test_a_run_keeps_what_it_is_told(root: Path, tmp_path: Path) -> None:
    (tmp_path / "plot.txt").write_text("plot")
    with Run.start(root, name="train", tags={"maskline.stage": "train"}) as run:
        run.log_params({f"p{i}": {"x": i} for i in range(150)})  # more than MLflow takes at once
        for step in range(3):
            run.log_metrics({"loss": 1 / (step + 1), "iou": {"person, <i>rider</i>": 0.5, "void": None}}, step=step)
        run.set_tags({"maskline.weights": "abc"})
        run.artifacts(tmp_path / "plot.txt", "plots")
        run.artifacts(tmp_path)
        with Run.start(root, name="trial-0", parent=run.id) as below:
            pass
    kept = run.server.get_run(run.id)
    assert kept.info.status == "FINISHED"
    assert len(kept.data.params) == 150
    assert kept.data.params["p149.x"] == "149"
    assert kept.data.metrics == {"loss": 1 / 3, "iou.person_ _i_rider__i_": 0.5}
    assert [(m.step, m.value) for m in run.server.get_metric_history(run.id, "loss")] == [(0, 1), (1, 0.5), (2, 1 / 3)]
    assert kept.data.tags.items() >= {"maskline.stage": "train", "maskline.weights": "abc"}.items()
    assert {f.path for f in run.server.list_artifacts(run.id)} == {"plots", "plot.txt"}
    assert (root / "mlartifacts").is_dir()
    assert run.server.get_run(below.id).data.tags["mlflow.parentRunId"] == run.id


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")]
)
def test_a_run_that_does_not_end_well_says_so(error: type[BaseException], status: str, root: Path) -> None:
    with pytest.raises(error), Run.start(root, name="train") as run:
        raise error
    assert run.server.get_run(run.id).info.status == status


def test_the_first_error_is_the_one_that_is_raised(tmp_path: Path) -> None:
    run = Run.start(tmp_path, name="train")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("DROP TABLE runs")
    with pytest.raises(ValueError, match="the real one"), run:
        raise ValueError("the real one")
    with pytest.raises(RunError, match="no such table"):
        run.finish()


def test_the_newest_finished_run_is_found(root: Path) -> None:
    runs = []
    for status in ("FINISHED", "FINISHED", "FAILED"):
        runs.append(Run.start(root, name="train", tags={"maskline.weights": "f00d"}))
        runs[-1].finish(status)
        time.sleep(0.01)  # MLflow's clock has milliseconds
    assert tracking.find(root, "maskline.weights", "f00d") == runs[1].id
    assert tracking.find(root, "maskline.weights", "beef") is None


def test_runs_of_dead_processes_are_closed_and_those_of_living_ones_left(root: Path) -> None:
    dead = child(
        "print(tracking.Run.start(Path(sys.argv[1]), name='train').id, flush=True); sys.stdin.read()", str(root)
    )
    assert dead.stdout is not None
    gone = dead.stdout.readline().strip()
    with Run.start(root, name="train") as alive:
        assert alive.server.get_run(gone).info.status == "RUNNING"
        dead.kill()
        dead.wait()
        with Run.start(root, name="train"):
            pass
        assert alive.server.get_run(gone).info.status == "KILLED"
        assert alive.server.get_run(alive.id).info.status == "RUNNING"


def test_four_processes_may_come_first(tmp_path: Path) -> None:
    code = """
with tracking.Run.start(Path(sys.argv[1]), name=sys.argv[2]) as run:
    for step in range(5):
        run.log_metrics({"loss": step}, step=step)
"""
    processes = [child(code, str(tmp_path), f"worker-{i}") for i in range(4)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    server = Server(tmp_path)
    runs = server.search_runs([server.experiment])
    assert {run.info.run_name for run in runs} == {f"worker-{i}" for i in range(4)}
    assert all(len(server.get_metric_history(run.info.run_id, "loss")) == 5 for run in runs)


def test_a_database_is_whole_or_absent(tmp_path: Path) -> None:
    process = child("tracking.prepare(Path(sys.argv[1]))", str(tmp_path))
    while not (tmp_path / ".mlflow.db.new").exists():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)  # half of the tables are there
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    tracking.prepare(tmp_path)
    assert Server(tmp_path).search_runs([Server(tmp_path).experiment]) == []


def test_a_database_that_another_process_holds_is_waited_for(root: Path) -> None:
    database = Server(root).database
    assert database is not None
    holder = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    threading.Timer(1.5, lambda: holder.execute("ROLLBACK")).start()
    started = time.monotonic()
    with Run.start(root, name="train"):
        pass
    assert time.monotonic() - started > 1
    holder.close()


def test_a_server_that_is_away_is_one_message_in_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(RunError, match=r"MLflow at http://\*\*\*@127.0.0.1:9 failed") as raised:
        tracking.prepare(tmp_path)
    assert time.monotonic() - started < 20
    assert "secret" not in str(raised.value)
    assert "set MLFLOW_TRACKING_URI" in str(raised.value)


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("sqlite:///not-a-database.txt", "not a database"),
        ("sqlite:////proc/nowhere/mlflow.db", "No such file"),
        ("file:///tmp/mlruns", "database backend"),
        ("carrier-pigeon://loft", "unsupported URI"),
    ],
)
def test_a_place_that_cannot_hold_runs(where: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "not-a-database.txt").write_text("Hello. " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", where)
    started = time.monotonic()
    with pytest.raises(RunError, match=said):
        tracking.prepare(tmp_path)
    assert time.monotonic() - started < 5


def test_the_revision_says_whether_files_differ_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert tracking.revision(tmp_path) == ("unknown", False)

    def git(*args: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            ["git", *who, *args], cwd=tmp_path, check=True, capture_output=True, text=True, env={**os.environ}
        ).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "dvc.lock").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert tracking.revision(tmp_path) == (commit, False)
    (tmp_path / "dvc.lock").write_text("2")
    assert tracking.revision(tmp_path) == (commit, False)
    (tmp_path / "code.py").write_text("2")
    assert tracking.revision(tmp_path) == (commit, True)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("time/data", "time/data"),
        ("iou/road/marking", "iou/road/marking"),
        ("/etc", "_etc"),
        ("a/../b", "a_.._b"),
        ("a//b", "a__b"),
        ("end/", "end_"),
        ("./x", "._x"),
    ],
)
def test_a_slash_makes_a_group_and_never_a_path(name: str, kept: str, root: Path) -> None:
    assert tracking.numbers({name: 1.0}) == {kept: 1.0}
    with Run.start(root, name="train") as run:
        run.log_metrics({name: 1.0}, step=0)  # MLflow takes it
    assert run.server.get_run(run.id).data.metrics == {kept: 1.0}


def test_a_run_with_a_key_is_started_once(root: Path) -> None:
    server = Server(root)
    first = Run.once(server, root, key="k1", name="train", tags={"a": "b"})
    first.finish("KILLED")
    again = Run.once(Server(root), root, key="k1", name="train", tags={"a": "b"})
    other = Run.once(server, root, key="k2", name="train", tags={}, parent=first.id)
    assert again.id == first.id != other.id
    assert server.get_run(first.id).info.status == "RUNNING"
    assert server.get_run(first.id).data.tags["a"] == "b"
    assert server.get_run(other.id).data.tags["mlflow.parentRunId"] == first.id
    for run in (first, other):
        run.finish()


def test_a_point_that_is_told_twice_is_kept_once(root: Path) -> None:
    with Run.start(root, name="train") as run:
        points = [("loss", step / 2, 1000 + step, step) for step in range(5)]
        run.log_points(points[:3])
        run.log_points(points)  # the first answer was lost
    history = run.server.get_metric_history(run.id, "loss")
    assert [(m.key, m.value, m.timestamp, m.step) for m in history] == points


def test_what_passes_is_told_from_what_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(tracking.Unreachable):
        tracking.prepare(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://loft")
    with pytest.raises(RunError) as raised:
        tracking.prepare(tmp_path)
    assert not isinstance(raised.value, tracking.Unreachable)
