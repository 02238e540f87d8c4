"""An exported package is the model that it was made of, or there is none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from pipelines import config, files
from pipelines.data.shards import ShardReader, read_manifest
from pipelines.errors import DataError, RunError
from pipelines.evaluation.evaluator import evaluate
from pipelines.exporting import parity, quantise, table, write
from pipelines.exporting import run as exporting
from pipelines.inference import package
from pipelines.inference.graph import GRAPH, HEADS, INPUT
from pipelines.loading.batch import decode
from pipelines.models import MODELS
from pipelines.pixels import Pixels
from pipelines.stage import Paths
from stages.export import run

PARAMS = config.read(Path(__file__).parents[2] / "params.yaml")
OWN_ENCODER = ("segnet", "ddrnet23_slim")
SMALL = {name: {"layers": 3, "queries": 20} for name in MODELS if name.startswith("mask2former")}
SETTINGS = exporting.Settings(
    split="val",
    batch_size=4,
    int8=True,
    calibration={"images": 6, "method": "minmax"},
    max_loss={"float32": 0.0005, "int8": 0.5},  # the model is untrained
    rounds=2,
)


def saved(folder: Path, name: str, dataset: Path, **section: Any) -> Path:
    """A package of a model with random weights, batch norm's statistics among them."""
    manifest = read_manifest(dataset)
    model = {
        **PARAMS["model"],
        "name": name,
        "encoder": "paper" if name in OWN_ENCODER else "test_resnet.r160_in1k",
        "channels": 16,
        "weights": "none",
        **({name: SMALL[name]} if name in SMALL else {}),
        **section,
    }
    torch.manual_seed(1)
    built = package.build(MODELS[name].task, model, manifest.classes, Pixels.of(manifest.mean, manifest.std))
    with torch.no_grad():
        for tensor in [*built.parameters(), *built.buffers()]:
            if tensor.is_floating_point():
                tensor += 0.02 * torch.rand_like(tensor)
    about = {"task": MODELS[name].task, "model": model, "classes": manifest.to_json()["classes"]}
    package.save(folder, built.eval(), {**about, "mean": manifest.mean, "std": manifest.std, "epoch": 0})
    return folder


@pytest.fixture(scope="module")
def source(dataset, tmp_path_factory) -> Path:
    return saved(tmp_path_factory.mktemp("source"), "lraspp", dataset)


@pytest.fixture(scope="module")
def exported(source, dataset, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("exported")
    return out, exporting.export(source, dataset, out, SETTINGS)


def raw(predictor, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        outputs = predictor.model(predictor.pixels.normalise(pixels))
    return {name: value.numpy() for name, value in outputs.items()}


# The share of values that may differ. SegNet unpools to where its encoder's maxima were: which of two that are equal
# but for their rounding is the larger one moves the values around it by a pixel.
MOVED = {"segnet": 0.01}


def assert_same_outputs(original, graph, shapes=((1, 3, 64, 64), (3, 3, 96, 128)), moved: float = 0.0) -> None:
    """Of any batch and size, by name; but for a share of the values."""
    for shape in shapes:
        wanted, found = raw(original, shape), raw(graph, shape)
        assert wanted.keys() == found.keys()
        for name, value in wanted.items():
            assert found[name].shape == value.shape
            near = np.isclose(found[name], value, rtol=1e-3, atol=2e-5 * np.abs(value).max())
            assert 1 - near.mean() <= moved, f"{name}: {1 - near.mean():.2%} differ"


def test_the_graph_gives_what_the_network_gives(source, exported):
    assert_same_outputs(package.load(source), package.load(exported[0] / "float32"))


def test_eight_bits_know_sizes_that_calibration_has_not_seen(exported):
    """Maps go beyond the ranges that were seen in small images, and are cut off there; their sizes are not."""
    float32, int8 = (package.load(exported[0] / precision) for precision in ("float32", "int8"))
    for shape in ((1, 3, 160, 224), (2, 3, 320, 96)):
        wanted, found = raw(float32, shape)["semantic"], raw(int8, shape)["semantic"]
        assert found.shape == wanted.shape
        assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.9


def test_an_exported_package_is_asked_as_its_original_is(source, exported, dataset):
    original, graph = package.load(source), package.load(exported[0] / "float32")
    images = [np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), np.uint8) for i in range(3)]
    for a, b in zip(original.predict(images), graph.predict(images), strict=True):
        assert (a.semantic == b.semantic).mean() > 0.999
        np.testing.assert_allclose(a.confidence, b.confidence, atol=1e-4)
    assert (graph.task, graph.classes, graph.inference) == (original.task, original.classes, original.inference)
    elaborate = replace(original.inference, tile=(32, 32), overlap=0.25, flip=True, scales=(0.5, 1.0))
    asked = [package.load(f, inference=elaborate).predict(images[:1])[0] for f in (source, exported[0] / "float32")]
    np.testing.assert_allclose(asked[0].confidence, asked[1].confidence, atol=1e-4)
    reader = ShardReader(dataset, "val")
    scores = [evaluate(p, reader, batch_size=4)["semantic"]["miou"] for p in (original, graph)]
    assert scores[0] == pytest.approx(scores[1], abs=5e-4)


def test_the_page_s_lines_run_the_file_without_maskline(exported, tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "docs" / "exports.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "export").symlink_to(exported[0])
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102 - the page is ours
    predicted = package.load(exported[0] / "float32").predict([image])[0].semantic
    np.testing.assert_array_equal(found["classes"], predicted)


def test_what_is_written_says_what_it_is(source, exported):
    out, said = exported
    assert sorted(p.name for p in out.iterdir()) == ["float32", "int8"]
    assert set(said["sides"]) == {"torch", "float32", "int8"}
    for name, side in said["sides"].items():
        assert side["network_ms"] > 0
        assert side["whole_ms"] > 0
        assert 0 <= side["semantic.miou"] <= 1, name
    assert said["sides"]["int8"]["file_bytes"] < 0.5 * said["sides"]["float32"]["file_bytes"]
    assert max(said["sides"]["float32"]["raw_difference"].values()) < 1e-4
    about = package.describe(out / "int8")["export"]
    assert about["of"] == package.describe(source)["weights"]["sha256"]
    assert (about["precision"], about["opset"], about["outputs"]) == ("int8", 20, ["semantic"])


def test_the_file_holds_no_word_of_the_machine_that_made_it(exported):
    for precision in ("float32", "int8"):
        content = (exported[0] / precision / GRAPH).read_bytes()
        assert str(Path(write.__file__).parents[2]).encode() not in content
        assert b"site-packages" not in content
        assert b"stack_trace" not in content


def test_ends_stay_in_float32_and_inner_layers_do_not(exported):
    graph = onnx.load(exported[0] / "int8" / GRAPH).graph
    by_output = {name: node for node in graph.node for name in node.output}
    kinds = {
        node.input[1]: by_output[node.input[1]].op_type if node.input[1] in by_output else "float"
        for node in graph.node
        if node.op_type == "Conv"
    }
    floats = [name for name, kind in kinds.items() if kind == "float"]
    kept = {"encoder.body.conv1.0", "head.classify_high", "head.classify_low"}
    assert set(floats) == {f"model.{name}.weight" for name in kept}
    assert all(kind in ("float", "DequantizeLinear") for kind in kinds.values())
    assert len(kinds) > 10
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer}
    inner = [node for node in graph.node if node.op_type == "Conv" and kinds[node.input[1]] == "DequantizeLinear"]
    weights = by_output[inner[0].input[1]]
    assert scales[weights.input[0]].dtype == np.int8
    assert scales[weights.input[1]].shape == (scales[weights.input[0]].shape[0],)  # one for each channel


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("at", [0.01, 0.5, 0.99])
def test_a_tampered_graph_is_refused(exported, tmp_path, precision, at):
    for path in (exported[0] / precision).iterdir():
        files.link(path, tmp_path / path.name)
    content = bytearray((tmp_path / GRAPH).read_bytes())
    content[int(at * len(content))] ^= 1
    (tmp_path / GRAPH).unlink()
    (tmp_path / GRAPH).write_bytes(content)
    with pytest.raises(DataError, match=r"model\.onnx is damaged: sha256 mismatch"):
        package.load(tmp_path)
    (tmp_path / GRAPH).unlink()
    with pytest.raises(DataError, match=r"model\.onnx is missing"):
        package.load(tmp_path)


def test_a_graph_that_names_another_file_is_refused(exported, tmp_path):
    """Also by whoever can seal the description again."""
    model = onnx.load(exported[0] / "float32" / GRAPH)
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 1_000_000)
    largest = max(model.graph.initializer, key=lambda t: len(t.raw_data))
    size = len(largest.raw_data)
    largest.ClearField("raw_data")
    largest.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": str(secret), "offset": "0", "length": str(size)}.items():
        entry = largest.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / GRAPH).write_bytes(model.SerializeToString())
    description = package.describe(exported[0] / "float32")
    description["weights"]["sha256"] = files.sha256(tmp_path / GRAPH)
    files.write_sealed(tmp_path / package.DESCRIPTION, description)
    with pytest.raises(DataError, match="does not fit"):
        package.load(tmp_path)


def test_a_damaged_export_does_not_pass_the_gate(source, exported, dataset, tmp_path):
    """Half of one layer's weights zeroed, and everything resealed."""
    original = package.load(source)
    model = onnx.load(exported[0] / "float32" / GRAPH)
    for tensor in model.graph.initializer:
        if tensor.name.endswith("classify_low.weight"):
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[: len(values) // 2] *= -1
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    write.save(tmp_path, model, original, table.row_of(original.description), "float32")
    reader = ShardReader(dataset, "val")
    scores = [evaluate(p, reader, batch_size=4) for p in (original, package.load(tmp_path))]
    found = parity.differences(*scores, bound=0.0005)
    with pytest.raises(RunError, match=r"semantic\.miou: 0\.\d{4} -> 0\.\d{4}, 0\.\d{4} apart \(allowed: 0\.0005\)"):
        parity.gate("float32", found, "")


def test_a_refused_export_leaves_nothing_that_looks_usable(dataset, tmp_path, small):
    """Not even an earlier one. Eight bits are held to a bound that they cannot meet."""
    raw = small("semantic", {"model.name": "lraspp", "export.split": "val", "export.rounds": 1})
    raw["export"]["max_loss"] = {"float32": 0.0005, "int8": 0.0}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "ingest").symlink_to(dataset)
    saved(tmp_path / "results" / "train", "lraspp", dataset)
    (tmp_path / "results" / "export" / "float32").mkdir(parents=True)
    paths = Paths(root=tmp_path, out=tmp_path / "results" / ".export")
    paths.out.mkdir()
    with pytest.raises(RunError, match="the int8 export is another model"):
        run(config.parse(raw), paths)
    assert not (tmp_path / "results" / "export").exists()


def test_calibration_sees_the_training_split_alone(source, dataset):
    settings = replace(SETTINGS, calibration={"images": 100, "method": "minmax"})
    seen = {
        image[0].transpose(1, 2, 0).tobytes()
        for image in exporting._calibration(dataset, package.load(source), settings)
    }

    def split(name: str) -> set[bytes]:
        return {decode(record).astype(np.float32).tobytes() for record in ShardReader(dataset, name)}

    assert seen == split("train")
    assert not seen & (split("val") | split("test"))


def test_every_model_has_its_row():
    assert set(table.EXPORTS) == set(MODELS)
    for name, row in table.EXPORTS.items():
        assert bool(row.refused) == (name in config.CLASSICAL), name
        assert bool(row.outside) != bool(row.refused), name


def test_what_cannot_be_exported_says_why(source, exported, dataset):
    about = package.describe(source)
    with pytest.raises(DataError, match="threshold cannot be exported: it has no network"):
        table.row_of({**about, "model": {**about["model"], "name": "threshold"}})
    with pytest.raises(DataError, match=r"the mean field of its CRF \(model.crf\) has no form in ONNX"):
        table.row_of({**about, "model": {**about["model"], "crf": {"iterations": 5}}})
    with pytest.raises(DataError, match="this package is an export already"):
        exporting.export(exported[0] / "float32", dataset, exported[0] / "again", SETTINGS)


def test_what_cannot_be_exported_does_not_cost_what_was(exported, tmp_path, small):
    (tmp_path / "results").mkdir()
    shutil.copytree(exported[0], tmp_path / "results" / "export")
    paths = Paths(root=tmp_path, out=tmp_path / "out")
    with pytest.raises(DataError, match="this package is an export already"):
        run(config.parse(small("semantic")), paths, model="results/export/int8")
    package.load(tmp_path / "results" / "export" / "int8")


@pytest.mark.parametrize(
    ("original", "found", "size"),
    [(0.5, 0.5, 0.0), (0.5, 0.4, 0.1), (0.4, 0.5, 0.1), (None, None, 0.0), (None, 0.1, np.inf), (0.1, None, np.inf)],
)
def test_metrics_that_are_undefined_on_one_side_differ(original, found, size):
    one, other = ({"semantic": {"miou": value}} for value in (original, found))
    (difference,) = parity.differences(one, other, 0.1)
    assert difference.size == pytest.approx(size)


def test_layers_are_kept_by_where_they_stand():
    """images -> a -> b -> c -> out, and beside it a -> d -> aside, twice as large as b: a sees the image, c and
    d are answers, and how large b is, is no map."""
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Mul", [INPUT, "k"], ["scaled"], "scale"),
        node("Conv", ["scaled", "wa"], ["a"], "a"),
        node("Relu", ["a"], ["ar"], "relu"),
        node("Conv", ["ar", "wb"], ["b"], "b"),
        node("Conv", ["b", "wc"], ["c"], "c"),
        node("Sigmoid", ["c"], ["out"], "sigmoid"),
        node("Shape", ["b"], ["whole"], "whole"),
        node("Cast", ["whole"], ["float"], "float", to=onnx.TensorProto.FLOAT),
        node("Add", ["float", "float"], ["twice"], "twice"),
        node("Cast", ["twice"], ["size"], "size", to=onnx.TensorProto.INT64),
        node("Conv", ["ar", "wd"], ["small"], "d"),
        node("Expand", ["small", "size"], ["aside"], "expand"),
    ]
    weights = [
        onnx.numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.float32), n) for n in ("wa", "wb", "wc", "wd", "k")
    ]
    floats = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        nodes, "g", [tensor(INPUT, floats, None)], [tensor(n, floats, None) for n in ("out", "aside")], weights
    )
    assert quantise.kept(graph) == {
        "scale", "a", "c", "sigmoid", "d", "expand", "whole", "float", "twice", "size",
    }  # fmt: skip


ABLE = [name for name, row in table.EXPORTS.items() if not row.refused]


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLE)
def test_every_model_that_can_be_exported_is(name, dataset, tmp_path):
    source = package.load(saved(tmp_path / "source", name, dataset))
    row = table.row_of(source.description)
    write.save(tmp_path / "graph", write.graph(source), source, row, "float32")
    graph = package.load(tmp_path / "graph")
    assert_same_outputs(source, graph, shapes=((1, 3, 64, 64), (3, 3, 128, 192)), moved=MOVED.get(name, 0.0))
    assert (tmp_path / "graph" / HEADS).exists() == bool(row.heads)
    images = [np.random.default_rng(i).integers(0, 256, (60, 90, 3), np.uint8) for i in range(2)]
    assert len(graph.predict(images)) == 2  # none of the weights that it has let go is asked for
    reader = ShardReader(dataset, "val")
    found = parity.differences(*(evaluate(p, reader, batch_size=4) for p in (source, graph)), 0.0005)
    parity.gate("float32", found, "")
    assert json.loads((tmp_path / "graph" / package.DESCRIPTION).read_text())["export"]["outside"] == row.outside
