"""The stage against a real registry: the line's story, its faults, and a kill at every step."""

import contextlib
import io
import json
import math
import signal
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipelines import config, environment, files, stage, tracking
from pipelines.data.schema import ClassInfo, Record
from pipelines.data.shards import ShardReader, read_manifest, write
from pipelines.errors import ConfigError, DataError
from pipelines.evaluation.evaluator import evaluate
from pipelines.evaluation.per_image import PerImage
from pipelines.inference import package
from pipelines.pixels import Pixels
from pipelines.registry.versions import Registry
from pipelines.stage import Paths
from pipelines.tracking import Run, Server
from stages import register

environment.prepare()
REPOSITORY = Path(__file__).parents[2]
CLASSES = ("sky", "sea")
RULE = {
    "min_gain": 0.0, "max_class_drop": 0.1, "significance": {"level": 0.95, "resamples": 200}, "floors": {},
    "limits": None,
}  # fmt: skip
MODEL = {"name": "unet", "encoder": "paper", "channels": 8}


@dataclass
class Line:
    """A project whose earlier stages have run."""

    root: Path
    name: str  # of the registered model: each test has its own

    def ingest(self, seed: int, names: tuple[str, ...] = CLASSES) -> None:
        classes = [ClassInfo(name=name, color=(i, i, i), isthing=False) for i, name in enumerate(names)]
        out = self.root / "results/ingest"
        write(records(seed), classes=classes, name="tiny", format="folder", out=out, rows_per_shard=8)

    def train(self, seed: int) -> str:
        """The hash of the weights."""
        torch.manual_seed(seed)
        manifest = read_manifest(self.root / "results/ingest")
        about = {
            "task": "semantic",
            "model": MODEL,
            "classes": manifest.to_json()["classes"],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "dataset": {"name": manifest.name, "hash": manifest.hash},
            "fingerprint": "f1",
            "parameters": {"seed": seed, "train": {"epochs": 2}},
            "epoch": 1,
        }
        folder = self.root / "results/train"
        package.save(folder, package.build("semantic", MODEL, manifest.classes, Pixels.of([0.5] * 3, [0.5] * 3)), about)
        files.write_text(folder / "history.csv", "epoch,train_loss,val_miou\n0,1.5,\n1,1.25,0.5\n")
        return str(package.describe(folder)["weights"]["sha256"])

    def measure(self, miou: float | None, spread: float = 0.02, **more: Any) -> None:
        """What `evaluate` would have found, said outright; of each image as well, `spread` around it."""
        manifest = read_manifest(self.root / "results/ingest")
        weights = package.describe(self.root / "results/train")["weights"]["sha256"]
        text = json.dumps(
            {
                "semantic": {"miou": miou, "dice": None, "iou": dict.fromkeys(CLASSES, miou)},
                "dataset": {"hash": manifest.hash, "split": "test", "images": manifest.images["test"]},
                "weights": weights,
                **more,
            }
        )
        files.write_text(self.root / "results/evaluate/metrics.json", text)
        given = miou if miou is not None and math.isfinite(miou) else 0.0
        images(manifest.images["test"], given, spread).write(self.root / "results/evaluate/images.npz")

    def register(self, **settings: Any) -> dict[str, Any]:
        """decision.json"""
        out = self.root / "results/register"
        out.mkdir(parents=True, exist_ok=True)
        register.run(params(self.name, **settings), Paths(root=self.root, out=out))
        return dict(json.loads((out / "decision.json").read_text()))

    def add(self, seed: int, miou: float | None, **settings: Any) -> dict[str, Any]:
        self.train(seed)
        self.measure(miou)
        return self.register(**settings)

    @property
    def server(self) -> Server:
        return Server(self.root)

    def versions(self) -> dict[int, Any]:
        return {int(v.version): v for v in self.server.search_model_versions(f"name = 'it-{self.name}-semantic'")}

    def aliases(self) -> dict[str, int]:
        return Registry(self.server, f"it-{self.name}-semantic", self.root).aliases()


def images(count: int, miou: float, spread: float) -> PerImage:
    """Sums by image that make this mIoU of both classes: of 10^12 pixels each, so that rounding shows nowhere."""
    pixels = 10**12
    share = miou + spread * (np.arange(count) - (count - 1) / 2) / count  # some images are easier, for every model
    right = np.rint(share * pixels).astype(np.int64)
    sums = np.stack([right, np.full(count, pixels), right], axis=-1)  # what is predicted is right: IoU is right / true
    return PerImage(
        task="semantic",
        things=(),
        ids=tuple(map(str, range(count))),
        sums={"semantic": np.repeat(sums[:, None], len(CLASSES), axis=1)},
        instance=None,
    )


def records(seed: int) -> Iterator[Record]:
    random = np.random.default_rng(seed)
    for i in range(8):
        pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        yield Record(
            id=str(i), split="test", image=png(pixels), format="png", height=64, width=64,
            semantic=(pixels[..., 0] > 128 + 8 * i).astype(np.uint8),
        )  # fmt: skip


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def params(name: str, **settings: Any) -> config.Params:
    raw = config.read(REPOSITORY / "params.yaml")
    section = {"name": f"it-{name}", **RULE, "floors": {"semantic.miou": 0.1, "panoptic.pq": 0.1}, **settings}
    return config.parse({**raw, "task": "semantic", "model": {**raw["model"], **MODEL}, "register": section})


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("project")


@pytest.fixture
def line(root: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = Line(root, request.node.originalname.removeprefix("test_").replace("_", "-"))
    made.ingest(0)
    return made


def verdict(decision: dict[str, Any]) -> tuple[int, bool, str, dict[str, int]]:
    said = decision["decision"]
    return decision["version"], said["promoted"], said["rule"], decision["aliases"]["after"]


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
    assert line.versions()[4].tags["maskline.reason"] == decision["decision"]["reason"]


def test_the_same_weights_are_one_version(line: Line) -> None:
    first = line.add(1, 0.5)
    audit = line.versions()[1].tags
    assert verdict(line.register()) == (1, True, "same weights", {"champion": 1})
    refused = line.add(2, 0.4)
    again = line.register()
    assert verdict(again) == verdict(refused)
    assert again["run"] == refused["run"]
    assert sorted(line.versions()) == [1, 2]
    assert line.versions()[1].tags == audit, "how it became champion is not forgotten"
    assert first["decision"]["rule"] == "first champion"
    assert verdict(line.add(1, 0.5)) == (1, True, "same weights", {"champion": 1, "challenger": 2})


def test_the_same_weights_asked_in_another_way_are_another_version(line: Line) -> None:
    line.add(1, 0.5)
    flipped = {"tile": None, "overlap": 0.0, "context": 0, "scales": [1.0], "flip": True, "crf": None}
    line.measure(0.6, inference=flipped)
    assert verdict(line.register()) == (2, True, "gain", {"champion": 2})
    registry = Registry(line.server, f"it-{line.name}-semantic", line.root)
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
    place = line.server.get_model_version_download_uri(f"it-{line.name}-semantic", "1").removeprefix("file://")
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
    assert version.description.startswith(f"# it-{line.name}-semantic")
    assert "| semantic.miou | 0.5000 |" in version.description
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


CHANGES = ("create", "log", "set", "finalize", "delete")  # how the names of the calls that change something begin


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


def test_a_kill_at_any_step_is_mended_by_the_next_run(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
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

    for after, step in enumerate(steps):
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


@pytest.fixture
def ends_with(line: Line, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """The stage as DVC runs it, up to its exit code."""
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(line.root)

    def run() -> int:
        with pytest.raises(SystemExit) as ended:
            stage.main("register", register.run)
        return int(ended.value.code or 0)

    raw = config.read(REPOSITORY / "params.yaml")
    section = {"name": f"it-{line.name}", **RULE}
    files.write_yaml(
        line.root / "params.yaml",
        {**raw, "task": "semantic", "model": {**raw["model"], **MODEL}, "register": section},
    )
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
