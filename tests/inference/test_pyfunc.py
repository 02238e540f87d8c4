"""The published model, loaded as a user would load it."""

import hashlib
import io
import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from packaging.requirements import Requirement
from PIL import ExifTags, Image, ImageOps

from pipelines import environment, files
from pipelines.data import rle
from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.errors import DataError
from pipelines.inference import package, pyfunc
from pipelines.inference.options import Inference
from pipelines.registry import publish
from tests.packages import NETWORKS, PETS, encode, network, picture

environment.prepare()
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"

REPOSITORY = Path(__file__).parents[2]
PLAIN = Inference()


def published(folder: Path, task: str, asked: Inference = PLAIN) -> Path:
    network(folder / "train", task)
    (folder / "metrics.json").write_text('{"semantic": {"miou": NaN}}')  # as it is, whatever it holds
    publish.write(
        folder / "model",
        source=folder / "train",
        card="# card",
        metrics=folder / "metrics.json",
        asked=asked,
        model_id="m-1",
        run_id="r",
        about={"a": "b"},
    )
    return folder / "model"


@pytest.fixture(scope="module", params=list(NETWORKS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def semantic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("semantic"), "semantic")


def decode(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def masks_of(row: str) -> list[np.ndarray]:
    return [rle.decode(np.array(i["rle"]["counts"]), *i["rle"]["size"]) for i in json.loads(row)]


def test_it_answers_as_the_predictor(folder: Path) -> None:
    images = [picture(0), picture(1), picture(2, 40, 72)]
    answer = mlflow.pyfunc.load_model(str(folder)).predict(pd.DataFrame({"image": [encode(i) for i in images]}))
    predictor = package.load(folder / "artifacts/package")
    assert list(answer.columns) == list(pyfunc.COLUMNS) == list(publish.OUTPUTS)
    for image, (_, row) in zip(images, answer.iterrows(), strict=True):
        expected = predictor.predict([image])[0]
        assert (row.height, row.width) == image.shape[:2]
        assert np.array_equal(decode(row.semantic), expected.semantic)
        if predictor.task == "semantic":
            assert row[["instances", "panoptic", "segments"]].isna().all()
        else:
            assert np.array_equal(decode(row.panoptic), expected.panoptic.ids)
            assert [s["category"] for s in json.loads(row.segments)] == expected.panoptic.labels.tolist()
            order = np.argsort(-expected.instances.scores, kind="stable")
            assert np.array_equal(masks_of(row.instances), expected.instances.masks[order].tolist())
    assert len(np.unique(decode(answer.semantic[0]))) > 1


def test_it_is_asked_as_it_was_measured(tmp_path: Path) -> None:
    asked = Inference(flip=True, scales=(0.5, 1.0), tile=(32, 32), overlap=0.25)
    folder, image = published(tmp_path, "semantic", asked), picture(3)
    answer = mlflow.pyfunc.load_model(str(folder)).predict([encode(image)])
    wanted = package.load(tmp_path / "train", inference=asked).predict([image])[0].semantic
    assert np.array_equal(decode(answer.semantic[0]), wanted)
    assert not np.array_equal(wanted, package.load(tmp_path / "train").predict([image])[0].semantic)


def test_frames_lists_and_single_images_are_taken_alike(semantic: Path) -> None:
    model, data = mlflow.pyfunc.load_model(str(semantic), model_config={"batch_size": 1}), [encode(picture(0))] * 2
    frame = model.predict(pd.DataFrame({"image": data}, index=["left", "right"]))
    assert list(frame.index) == ["left", "right"]
    assert model.predict(data).semantic.tolist() == frame.semantic.tolist()
    assert model.predict({"image": data}).semantic.tolist() == frame.semantic.tolist()
    assert model.predict(data[0]).semantic.tolist() == frame.semantic.tolist()[:1]


def test_the_example_predicts(semantic: Path) -> None:
    model = mlflow.pyfunc.load_model(str(semantic))
    assert decode(model.predict(model.input_example).semantic[0]).shape == (64, 64)


def test_the_model_may_be_served(semantic: Path) -> None:
    from fastapi.testclient import TestClient
    from mlflow.pyfunc import scoring_server

    with TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(semantic)))) as client:
        example = json.loads((semantic / "serving_input_example.json").read_text())
        good = client.post("/invocations", json=example)
        assert (good.status_code, good.json()["predictions"][0]["height"]) == (200, 64)
        bad = client.post("/invocations", json={"dataframe_split": {"columns": ["image"], "data": [["aGVsbG8="]]}})
        assert bad.status_code == 400
        assert "row 0: not an allowed image" in bad.json()["message"]


def test_every_bad_image_is_named_and_nothing_is_guessed() -> None:
    png, jpeg = encode(picture(0)), encode(picture(0), "JPEG")
    vast = bytearray(png)
    vast[16:24] = (60000).to_bytes(4, "big") * 2  # the header alone claims 3.6 gigapixels
    bad = [
        b"",
        b"<html>",
        png[:-30],
        jpeg[: len(jpeg) // 2],
        bytes(vast),
        "a/path.png",
        None,
        encode(picture(0), "GIF"),
    ]
    with pytest.raises(DataError) as raised:
        pyfunc.pixels([png, *bad, jpeg])
    assert "8 of 10 images cannot be read" in str(raised.value)
    for row in range(1, 9):
        assert f"row {row}: " in str(raised.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_before_it_is_looked_at(orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encode(picture(0, 64, 96), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(pyfunc.pixels([data])[0], np.asarray(upright))


def test_instances_and_segments_in_coco_s_words() -> None:
    left, low = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    left[:, :2], low[3, :] = True, True
    boxes = np.array([[0, 0, 2, 4], [0, 3, 6, 4]], np.float32)
    instances = Instances(
        masks=np.stack([left, low]), labels=np.array([1, 2]), scores=np.array([0.5, 0.75], np.float32), boxes=boxes
    )
    panoptic = Panoptic(ids=np.where(low, 2, left * 1), labels=np.array([1, 0]), iscrowd=np.zeros(2, bool))
    row = pyfunc.describe(np.zeros((4, 6, 3)), Prediction(instances=instances, panoptic=panoptic), PETS)
    first, second = json.loads(row["instances"])
    assert first == {
        "category": 2,
        "name": "dog",
        "score": 0.75,
        "bbox": [0, 3, 6, 1],
        "area": 6,
        "rle": {"size": [4, 6], "counts": [3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 3, 1]},
    }
    assert (second["name"], second["rle"]["counts"]) == ("cat", [0, 8, 16])
    assert json.loads(row["segments"]) == [
        {"id": 1, "category": 1, "name": "cat", "isthing": True, "bbox": [0, 0, 2, 3], "area": 6},
        {"id": 2, "category": 0, "name": "sky", "isthing": False, "bbox": [0, 3, 6, 1], "area": 6},
    ]
    assert np.array_equal(decode(row["panoptic"]), panoptic.ids)
    assert row["semantic"] is None


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = published(tmp_path, "semantic")
    weights = folder / "artifacts/package/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    with pytest.raises(DataError, match="sha256 mismatch"):
        mlflow.pyfunc.load_model(str(folder))


class Bomb:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def test_a_pickle_in_place_of_the_weights_is_never_loaded(tmp_path: Path) -> None:
    """Neither as it is, nor by one who has mended every hash."""
    folder, marker = published(tmp_path, "semantic"), tmp_path / "marker"
    weights, described = (folder / "artifacts/package" / name for name in (package.WEIGHTS, package.DESCRIPTION))
    weights.write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(DataError, match="sha256 mismatch"):
        mlflow.pyfunc.load_model(str(folder))
    description = package.describe(described.parent)
    description["weights"]["sha256"] = files.sha256(weights)
    files.write_sealed(described, description)
    with pytest.raises(DataError, match="does not fit the model"):
        mlflow.pyfunc.load_model(str(folder))
    assert not marker.exists()
    pickle.loads(weights.read_bytes())  # noqa: S301
    assert marker.exists(), "it would have gone off"


def test_there_is_no_pickle_and_no_bytecode_in_it(tmp_path: Path) -> None:
    fresh = published(tmp_path, "semantic")  # one that was loaded holds what Python compiled of it
    names = [path.name for path in fresh.rglob("*")]
    assert "model.safetensors" in names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth", ".pyc"))]


ELSEWHERE = """
import sys
refused = set(sys.argv[2].split(","))
class Installed:  # as if nothing else were: torch looks what there is
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in refused else self.finder.find_spec(name, path, target)
try:
    import pipelines
    sys.exit("pipelines can be imported here")
except ModuleNotFoundError:
    sys.meta_path[:] = map(Installed, sys.meta_path)
import mlflow, hashlib
model = mlflow.pyfunc.load_model(sys.argv[1])
import pipelines
assert pipelines.__file__.startswith(sys.argv[1]), pipelines.__file__
print(hashlib.sha256(model.predict(model.input_example).semantic[0]).hexdigest())
"""


def with_dependencies(names: set[str]) -> set[str]:
    """Distributions and all that they require here."""
    todo, found = set(names), set[str]()
    while todo:
        name = todo.pop()
        found.add(name)
        try:
            needed = [Requirement(r) for r in requires(name) or []]
        except ModuleNotFoundError:  # of another platform
            continue
        todo |= {r.name.lower() for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})} - found
    return {name.replace("_", "-") for name in found}


def test_it_loads_where_the_project_is_not_with_its_requirements_alone(semantic: Path, tmp_path: Path) -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    ours = {Requirement(line).name.lower() for line in project}
    refused = ours - with_dependencies(set(publish.REQUIREMENTS))
    assert {"ray", "dvc", "great-expectations", "albumentations"} <= refused
    modules = {m for m, owners in packages_distributions().items() if refused & {o.lower() for o in owners}}
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(semantic), ",".join(modules)],
        cwd=tmp_path, env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = mlflow.pyfunc.load_model(str(semantic))
    assert done.stdout.split() == [hashlib.sha256(here.predict(here.input_example).semantic[0]).hexdigest()]


FRESH = """
import hashlib, mlflow, sys
from pathlib import Path
model = mlflow.pyfunc.load_model(sys.argv[1], model_config={"device": "cpu"})
answer = model.predict([Path(name).read_bytes() for name in sys.argv[2:]])
columns = [c for c in answer if answer[c].notna().all()]
said = [v if isinstance(v, bytes) else str(v).encode() for c in columns for v in answer[c]]
print(" ".join(columns), hashlib.sha256(b"".join(said)).hexdigest())
"""


def pip_looks_at() -> list[str]:
    """pip's configuration as options of uv, which reads none."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found = re.findall(r"(?m)^\S*\.(index-url|extra-index-url|find-links)='(.*)'$", listed.stdout)
    places = [(f"--{name}", place) for name, places in found for place in places.split()]
    return ["--index-strategy", "unsafe-best-match", *(word for option in places for word in option)]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_fresh_environment_of_its_requirements_gives_the_same_bits(folder: Path, tmp_path: Path) -> None:
    """An environment that holds what the model asks for, from wherever pip is told to look, and nothing else."""
    python = tmp_path / "env/bin/python"
    clean = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    uv = [sys.executable, "-m", "uv", "-q"]
    for command in (
        [*uv, "venv", "--python", sys.executable, str(tmp_path / "env")],
        [*uv, "pip", "install", "--python", str(python), *pip_looks_at(), "-r", str(folder / "requirements.txt")],
    ):
        subprocess.run(command, cwd=tmp_path, env=clean, check=True)
    listed = subprocess.run(
        [*uv, "pip", "freeze", "--python", str(python)], env=clean, capture_output=True, text=True, check=True
    )
    installed = {line.split("==")[0].lower() for line in listed.stdout.splitlines()}
    assert not installed & {"ray", "dvc", "great-expectations", "albumentations", "maskline", "pycocotools"}
    images = []
    for seed, size in enumerate([(64, 64), (64, 64), (40, 72)]):
        images.append(tmp_path / f"{seed}.png")
        images[-1].write_bytes(encode(picture(seed, *size)))
    said = [
        subprocess.run(
            [str(interpreter), "-c", FRESH, str(folder), *map(str, images)],
            cwd=tmp_path, env={**clean, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True,
        ).stdout
        for interpreter in (python, sys.executable)
    ]  # fmt: skip
    assert said[0] == said[1]
    assert "semantic" in said[0]


def test_requirements_are_exact_and_public() -> None:
    said = publish.requirements()
    assert {line.split("==")[0] for line in said} == set(publish.REQUIREMENTS)
    assert all(Requirement(line).specifier and "+" not in line for line in said)


def test_a_wrong_call_is_an_error_of_mlflow_s(semantic: Path) -> None:
    with pytest.raises(MlflowException, match="row 0: not an allowed image"):
        mlflow.pyfunc.load_model(str(semantic)).predict([b"hello"])
