"""The stage against a real registry: the line's story, its faults, and a kill at every step."""

import contextlib
import io
import json
import math
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines import environment, files, stage, tracking
from pipelines.data.shards import ShardReader, read_manifest
from pipelines.errors import ConfigError, DataError
from pipelines.evaluation.evaluator import evaluate
from pipelines.inference import package
from pipelines.tracking import Run, Server
from stages import register
from tests.registry.line import Line, begun, png, raw, verdict

environment.prepare()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def line(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return begun(root, request.node.name)


def test_the_better_model_is_champion(line: Line) -> None:
    assert verdict(line.add(1, 0.5)) == (1, True, "first champion", {"champion": 1})
    assert verdict(line.add(2, 0.4)) == (2, False, "gain", {"champion": 1, "challenger": 2})
    assert verdict(line.add(3, 0.6)) == (3, True, "gain", {"champion": 3})
    decision = line.add(4, 0.6)
    assert verdict(decision) == (4, False, "not significant", {"champion": 3, "challenger": 4})
    assert decision["decision"]["reason"] == (
        "semantic.miou 0.6 equals the champion's: not significant (95 % interval +0 to +0, p 1, 8 images)"
    )
    assert decision["aliases"]["before"] == {"champion": 3}
    assert (decision["champion"]["version"], decision["champion"]["how"]) == (3, "on record")
    assert verdict(line.add(5, 0.65, min_gain=0.1)) == (5, False, "gain", {"champion": 3, "challenger": 5})
    assert [v.tags["maskline.decision"] for _, v in sorted(line.versions().items())] == [
        "promoted: first champion",
        "refused: gain",
        "promoted: gain",
        "refused: not significant",
        "refused: gain",
    ]
    assert line.versions()[4].tags["maskline.against"] == "version 3"
    assert [(e.what, e.version, e.before, e.after) for e in line.decisions()] == [
        ("promoted", 1, None, 1), ("refused", 2, 1, 1), ("promoted", 3, 1, 3), ("refused", 4, 3, 3),
        ("refused", 5, 3, 3),
    ]  # fmt: skip
    assert all(e.done and e.who and e.dataset and e.commit for e in line.decisions())
    assert line.versions()[4].tags["maskline.reason"] == decision["decision"]["reason"]


def test_the_same_weights_are_one_version(line: Line) -> None:
    first = line.add(1, 0.5)
    told = line.versions()[1].tags
    assert verdict(line.register()) == (1, True, "same weights", {"champion": 1})
    refused = line.add(2, 0.4)
    again = line.register()
    assert verdict(again) == verdict(refused)
    assert again["run"] == refused["run"]
    assert sorted(line.versions()) == [1, 2]
    assert line.versions()[1].tags == told, "how it became champion is not forgotten"
    assert first["decision"]["rule"] == "first champion"
    assert verdict(line.add(1, 0.5)) == (1, True, "same weights", {"champion": 1, "challenger": 2})


def test_the_same_weights_asked_in_another_way_are_another_version(line: Line) -> None:
    line.add(1, 0.5)
    flipped = {"tile": None, "overlap": 0.0, "context": 0, "scales": [1.0], "flip": True, "crf": None}
    line.measure(0.6, inference=flipped)
    assert verdict(line.register()) == (2, True, "gain", {"champion": 2})
    registry = line.registry
    assert package.load(registry.download(2, "artifacts/package", line.root / "second")).inference.flip
    assert package.load(registry.download(1, "artifacts/package", line.root / "first")).inference.plain
    assert verdict(line.register()) == (2, True, "same weights", {"champion": 2})
    line.ingest(seed=9)
    assert line.add(3, 0.0)["champion"]["how"] == "measured again"


def test_a_model_that_is_measured_again_may_rise(line: Line) -> None:
    line.add(1, 0.5)
    line.add(2, 0.4)
    line.measure(0.7)
    assert verdict(line.register()) == (2, True, "gain", {"champion": 2})


@pytest.mark.parametrize(
    ("seed", "miou", "floors", "rule"),
    [(1, math.nan, {}, "not a number"), (2, math.inf, {}, "not a number"), (3, None, {}, "not a number"),
     (4, 0.3, {"semantic.miou": 0.4}, "floor")],
)  # fmt: skip
def test_what_is_refused_is_registered_all_the_same(line: Line, seed: int, miou: float, floors: Any, rule: str) -> None:
    decision = line.add(seed, miou, floors=floors)
    assert decision["decision"]["rule"] == rule
    assert not decision["decision"]["promoted"]
    assert decision["aliases"]["after"] == {"challenger": decision["version"]}


def test_the_champion_is_measured_on_the_new_dataset(line: Line) -> None:
    line.add(1, 0.5)
    before = read_manifest(line.root / "results/ingest").hash
    champion = package.load(line.root / "results/train")
    line.ingest(1)
    expected = evaluate(champion, ShardReader(line.root / "results/ingest", "test"), batch_size=2)["semantic"]["miou"]
    decision = line.add(2, 0.9)
    assert verdict(decision) == (2, True, "gain", {"champion": 2})
    assert decision["decision"]["champion"] == pytest.approx(expected, abs=1e-12)
    assert decision["decision"]["difference"]["low"] > 0
    assert decision["champion"]["how"] == "measured again"
    assert decision["champion"]["recorded"] == {f"{before[:16]}.test": {"semantic": {"miou": 0.5}}}
    line.ingest(0)  # and back: what both reach there is known, or measured, and nothing is measured twice
    assert line.add(3, 0.4)["champion"]["how"] == "measured again"
    assert line.add(4, 0.4)["champion"]["how"] == "on record"


def test_a_dataset_of_other_classes_needs_another_name(line: Line) -> None:
    line.add(1, 0.5)
    line.ingest(1, ("sky", "lake"))
    decision = line.add(2, 0.9)
    assert verdict(decision) == (2, False, "not comparable", {"champion": 1, "challenger": 2})
    assert decision["decision"]["reason"] == (
        "version 1 knows the classes sky, sea, the dataset has sky, lake: choose another register.name"
    )


def test_a_champion_whose_files_were_changed_is_not_believed(line: Line) -> None:
    line.add(1, 0.5)
    place = line.server.get_model_version_download_uri(line.model, "1").removeprefix("file://")
    weights = Path(place) / "artifacts/package/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    line.ingest(1)
    decision = line.add(2, 0.9)
    assert verdict(decision) == (2, False, "not comparable", {"champion": 1, "challenger": 2})
    assert "version 1 cannot be loaded" in decision["decision"]["reason"]
    assert "sha256 mismatch" in decision["decision"]["reason"]
    description = Path(place) / "artifacts/package/model.json"  # now both agree, and neither is what was registered
    described = package.describe(description.parent)
    described["weights"]["sha256"] = files.sha256(weights)
    files.write_json(description, {**described, "checksum": files.digest(described)})
    assert "has not the weights that were registered" in line.register()["decision"]["reason"]


def test_a_version_tells_all_that_it_came_from(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, manifest = line.train(1), read_manifest(line.root / "results/ingest")
    line.measure(0.5)
    decision = line.register()
    version, server = line.versions()[1], line.server
    assert decision["weights"] == version.tags["maskline.weights"] == weights
    assert version.tags["maskline.dataset"] == manifest.hash
    assert version.tags["maskline.fingerprint"] == "f1"
    assert version.tags["maskline.git.commit"] == decision["commit"] == tracking.revision(line.root)[0]
    assert version.description.startswith("> **Promoted (first champion)** on ")
    assert f"\n\n# {line.model}\n" in version.description
    assert "| semantic.miou\u00a0\u00a0 | 0.5000\u00a0\u00a0 |" in version.description
    model = server.get_logged_model(version.source.removeprefix("models:/"))
    assert {m.key: m.value for m in model.metrics} == {
        "semantic.miou": 0.5, "semantic.iou.sky": 0.5, "semantic.iou.sea": 0.5,
    }  # fmt: skip
    assert model.params == {"seed": "1", "train.epochs": "2"}
    run = server.get_run(version.run_id)
    assert run.data.params == model.params
    assert run.data.metrics["semantic.miou"] == 0.5
    assert [(m.step, m.value) for m in server.get_metric_history(run.info.run_id, "train_loss")] == [
        (0, 1.5),
        (1, 1.25),
    ]
    assert (run.info.status, run.data.tags["maskline.imported"]) == ("FINISHED", "true")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    loaded = mlflow.pyfunc.load_model(f"models:/it-{line.name}-semantic@champion")
    answer = loaded.predict(pd.DataFrame({"image": [png(image)]}))
    expected = package.load(line.root / "results/train").predict([image])[0].semantic
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.semantic[0]))), expected)
    assert loaded.metadata.run_id == run.info.run_id


def test_the_run_that_trained_the_weights_is_the_version_s(line: Line) -> None:
    weights = line.train(1)
    line.measure(0.5)
    with Run.start(line.root, name="train", tags={"maskline.weights": weights}) as run:
        pass
    assert line.register()["run"] == line.versions()[1].run_id == run.id


def test_metrics_of_other_weights_or_another_task_are_refused(line: Line) -> None:
    line.train(1)
    line.measure(0.5, weights="0" * 64)
    with pytest.raises(DataError, match="measured with other weights"):
        line.register()
    files.write_text(line.root / "results/evaluate/metrics.json", '{"semantic": {"miou": 0.5}}')
    with pytest.raises(DataError, match=r"metrics.json is damaged: KeyError\('dataset'\)"):
        line.register()
    files.remove(line.root / "results/evaluate/metrics.json")
    with pytest.raises(DataError, match=r"is missing: the model was not measured\ndo: dvc repro evaluate"):
        line.register()
    line.measure(0.5)
    with pytest.raises(ConfigError, match=r"did you mean 'semantic\.miou'"):
        line.register(floors={"semantic.mious": 0.1})
    assert line.versions() == {}


class KilledError(BaseException):
    """As a SIGKILL would end it: nothing that follows reaches the server either."""


CHANGES = (
    "create",
    "log",
    "set",
    "update",
    "finalize",
    "delete",
)  # how the names of the calls that change something begin


def killed_after(changes: int, ask: Callable[..., Any], called: list[str]) -> Callable[..., Any]:
    """`Server.ask`, dead once it has changed something this often."""

    def dying(server: Server, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if len(called) >= changes:
            raise KilledError
        answer = ask(server, call, *args, **kwargs)
        if getattr(call, "__name__", "").startswith(CHANGES):
            called.append(call.__name__)
        return answer

    return dying


@pytest.mark.parametrize("every", [14, pytest.param(1, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_a_kill_at_any_step_is_mended_by_the_next_run(line: Line, every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At some of the steps, and around the two that count; the slow one goes through all."""
    ask, database = Server.ask, line.root / "mlflow.db"
    line.add(1, 0.5)
    line.add(2, 0.4)
    line.train(99)  # weights that no run knows yet
    line.measure(0.6)
    saved = sqlite3.connect(":memory:")
    with contextlib.closing(sqlite3.connect(database)) as live:
        live.backup(saved)
    steps: list[str] = []
    monkeypatch.setattr(Server, "ask", killed_after(10**6, ask, steps))
    assert verdict(line.register()) == (3, True, "gain", {"champion": 3})
    assert {"create_run", "create_logged_model", "create_model_version", "set_registered_model_alias"} <= set(steps)

    decided, moved = steps.index("log_param"), steps.index("set_registered_model_alias")
    for after in sorted({*range(0, len(steps), every), decided, decided + 1, moved, moved + 1}):
        step = steps[after]
        with contextlib.closing(sqlite3.connect(database)) as live:
            saved.backup(live)
        monkeypatch.setattr(Server, "ask", killed_after(after, ask, []))
        with pytest.raises(KilledError):
            line.register()
        monkeypatch.setattr(Server, "ask", ask)
        assert line.aliases()["champion"] in (1, 3), step
        ended = line.register()
        assert (ended["version"], ended["aliases"]["after"]) == (3, {"champion": 3}), step
        assert sorted(line.versions()) == [1, 2, 3], step
        tags = line.versions()[3].tags
        assert (tags["maskline.decision"], tags["maskline.against"]) == ("promoted: gain", "version 1"), step
        assert "semantic.miou" in line.server.get_run(ended["run"]).data.metrics, step
        told = [(e.what, e.version, e.before, e.done) for e in line.decisions()[2:]]
        assert told == [("promoted", 3, 1, True)], step
        assert "version 3" in line.page().split("Decisions")[0], step


def test_a_gain_that_is_luck_is_refused(line: Line) -> None:
    line.add(1, 0.5)
    line.train(2)
    line.measure(0.52, luck=0.2)  # half of the images are much better, the others much worse
    decision = line.register()
    assert verdict(decision) == (2, False, "not significant", {"champion": 1, "challenger": 2})
    found = decision["decision"]["difference"]
    assert found["low"] < 0 < found["high"]
    assert decision["decision"]["reason"].startswith("a gain of +0.02 is not significant (95 % interval -0.")
    assert verdict(line.register(significance=None)) == (2, True, "gain", {"champion": 2})


def test_costs_are_bound_by_limits(line: Line) -> None:
    line.train(1)
    line.measure(0.5)
    cost = line.root / "results/evaluate/cost.json"
    assert line.register(limits={"cost.latency_ms": 40.0})["decision"]["reason"].startswith("cost.latency_ms has a lim")
    files.write_json(cost, {"latency_ms": 50.0, "latency_p95_ms": 60.0, "device": "cpu"})
    assert verdict(line.register(limits={"cost.latency_ms": 40.0})) == (1, False, "limit", {"challenger": 1})
    assert verdict(line.register(limits={"cost.latency_ms": 60.0})) == (1, True, "first champion", {"champion": 1})
    assert [(e.what, e.rule) for e in line.decisions()] == [
        ("refused", "limit"), ("refused", "limit"), ("promoted", "first champion"),
    ]  # fmt: skip
    files.write_text(cost, "[")
    with pytest.raises(DataError, match=r"cost.json is damaged"):
        line.register()
    files.remove(cost)


def test_an_evaluation_of_other_images_than_its_metrics_is_refused(line: Line) -> None:
    line.train(1)
    line.measure(0.5)
    kept = (line.root / "results/evaluate/images.npz").read_bytes()
    line.measure(0.6)
    (line.root / "results/evaluate/images.npz").write_bytes(kept)
    with pytest.raises(DataError, match=r"gives semantic.miou 0\.5\d*, metrics.json says 0.6: they are of two"):
        line.register()


def test_an_evaluation_that_was_changed_is_made_again(line: Line) -> None:
    first = line.add(1, 0.5)
    for kept in (line.root / "mlartifacts").rglob(f"{first['run']}/artifacts/evaluations/*/images.npz"):
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert line.add(2, 0.9)["champion"]["how"] == "measured again"


@pytest.fixture
def ends_with(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """The stage as DVC runs it, up to its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(line.root)

    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            stage.main("register", register.run)
        return int(ended.value.code or 0)

    files.write_yaml(line.root / "params.yaml", raw(line.name, floors={}))
    yield run
    signal.signal(signal.SIGTERM, handler)


def test_a_refusal_is_a_result_and_a_server_that_is_away_a_failure(
    line: Line, ends_with: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line.train(1)
    line.measure(math.nan)
    assert ends_with() == 0
    assert "refused not a number: semantic.miou is nan" in capsys.readouterr().out
    assert json.loads((line.root / "results/register/decision.json").read_text())["decision"]["challenger"] is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert ends_with() == 1
    said = capsys.readouterr().err
    assert said.startswith("register: MLflow at http://127.0.0.1:9 failed: ")
    assert "Traceback" not in said
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    files.remove(line.root / "results/evaluate/metrics.json")
    assert ends_with() == 2
