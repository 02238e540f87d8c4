"""A model on disk is the model that was saved, or it is refused."""

import contextlib
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines import files
from pipelines.data.formats import shapes
from pipelines.data.prediction import Prediction
from pipelines.data.shards import read_manifest
from pipelines.errors import DataError
from pipelines.inference import package
from pipelines.inference.predictor import Predictor
from pipelines.models import MODELS
from pipelines.pixels import Pixels

ENCODER = "test_resnet.r160_in1k"
PIXELS = Pixels.of([0.5] * 3, [0.25] * 3)
NAMES = ("unet", "mask_rcnn", "panoptic_deeplab")  # of each task one: what a package asks of a model is the contract's


def built(name: str) -> torch.nn.Module:
    torch.manual_seed(1)
    parameters = {"name": name, "encoder": ENCODER, "channels": 16, "weights": "none"}
    model = package.build(MODELS[name].task, parameters, shapes.classes(), PIXELS)
    with torch.no_grad():  # batch norm's statistics and every parameter off their initial values
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor += 0.01 * torch.rand_like(tensor)
    return model.eval()


def description(name: str, dataset: Path) -> dict[str, Any]:
    manifest = read_manifest(dataset)
    return {
        "task": MODELS[name].task,
        "model": {"name": name, "encoder": ENCODER, "channels": 16},
        "classes": manifest.to_json()["classes"],
        "mean": manifest.mean,
        "std": manifest.std,
    }


def images(*sizes: tuple[int, int]) -> list[np.ndarray]:
    return [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]


def assert_same(a: Prediction, b: Prediction) -> None:
    if a.semantic is not None:
        np.testing.assert_array_equal(a.semantic, b.semantic)
    if a.instances is not None:
        for field in ("masks", "labels", "scores", "boxes"):
            np.testing.assert_array_equal(getattr(a.instances, field), getattr(b.instances, field))
    if a.panoptic is not None:
        np.testing.assert_array_equal(a.panoptic.ids, b.panoptic.ids)
        np.testing.assert_array_equal(a.panoptic.labels, b.panoptic.labels)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_loaded_computes_what_was_saved_bit_for_bit(name, dataset, tmp_path):
    model = built(name)
    package.save(tmp_path, model, description(name, dataset))
    before, after = Predictor(model, description(name, dataset)), package.load(tmp_path)
    inputs = torch.randn(2, 3, 64, 64)
    raw = [predictor.model(inputs) for predictor in (before, after)]
    assert raw[0].keys() == raw[1].keys()
    for key, value in raw[0].items():
        assert torch.equal(value, raw[1][key]), key
    for a, b in zip(*(p.predict(images((64, 64), (64, 64))) for p in (before, after)), strict=True):
        assert_same(a, b)
    assert [c.name for c in after.classes] == [c.name for c in shapes.classes()]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


@pytest.fixture
def saved(dataset: Path, tmp_path: Path) -> Path:
    package.save(tmp_path, built("unet"), description("unet", dataset))
    return tmp_path


def damage(path: Path, at: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(at * (len(data) - 1))] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("at", [0.0, 0.001, 0.5, 1.0])
def test_a_flipped_bit_in_the_weights_is_refused(saved, at):
    damage(saved / "model.safetensors", at)
    with pytest.raises(DataError, match=r"model\.safetensors is damaged: sha256 mismatch"):
        package.load(saved)


def test_a_flipped_bit_anywhere_in_the_description_is_refused(saved):
    """It holds what the weights' hash does not: the classes, the normalisation, and that hash."""
    whole = (saved / "model.json").read_bytes()
    for at in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        (saved / "model.json").write_bytes(flipped)
        with contextlib.suppress(ValueError):
            if json.loads(flipped) == json.loads(whole):
                continue  # a white space for another, or the last digit of a number that is rounded away
        with pytest.raises(DataError, match=r"model\.json (is damaged|has format version)"):
            package.describe(saved)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is damaged"),
        ('{"version": 1, "task"', "is damaged"),
        ("[1]", "is damaged"),
        ("[" * 100_000, "is damaged"),
        ('{"task": "semantic"}', "is damaged: 'version'"),
        ('{"version": 2}', "has format version 2, this build reads 1"),
        ('{"version": 1, "task": "semantic"}', "is damaged: it is not what training wrote"),
    ],
)
def test_a_description_of_another_kind_is_refused(saved, text, said):
    (saved / "model.json").write_text(text)
    with pytest.raises(DataError, match=said):
        package.load(saved)


def test_what_is_missing_is_named(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors is missing"):
        package.load(saved)
    (saved / "model.json").unlink()
    with pytest.raises(DataError, match=r"there is no trained model in (.|\n)*do: dvc repro train"):
        package.load(saved)


def sign(folder: Path, **changes: Any) -> None:
    """Make the description say what an attacker would: hashes that fit."""
    described = {**package.describe(folder), **changes}
    described["weights"] = {"file": package.WEIGHTS, "sha256": files.sha256(folder / package.WEIGHTS)}
    files.write_json(folder / package.DESCRIPTION, {**described, "checksum": files.digest(described)})


class Evil:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_a_pickle_is_never_run(saved, tmp_path, write):
    with (saved / "model.safetensors").open("wb") as file:
        write(Evil(tmp_path / "executed"), file)
    sign(saved)
    with pytest.raises(DataError, match="does not fit the model"):
        package.load(saved)
    assert not (tmp_path / "executed").exists()


def test_weights_of_another_model_are_refused(saved, dataset):
    sign(saved, model={"name": "unet", "encoder": ENCODER, "channels": 24})
    with pytest.raises(DataError, match=r"does not fit the model that model\.json describes(.|\n)*size mismatch"):
        package.load(saved)


def test_a_model_of_another_task_is_refused():
    with pytest.raises(DataError, match="unet does the semantic task, not panoptic"):
        package.build("panoptic", {"name": "unet", "encoder": ENCODER, "channels": 16}, shapes.classes(), PIXELS)


@pytest.mark.parametrize("name", NAMES)
def test_every_image_gets_a_prediction_of_its_own_size(name, dataset):
    predictor = Predictor(built(name), description(name, dataset))
    sizes = [(40, 72), (64, 64), (33, 31)]
    for (height, width), found in zip(sizes, predictor.predict(images(*sizes)), strict=True):
        assert found.semantic is None or found.semantic.shape == (height, width)
        assert found.instances is None or found.instances.masks.shape[1:] == (height, width)
        assert found.panoptic is None or found.panoptic.ids.shape == (height, width)
    assert predictor.predict([]) == []


def test_images_of_one_size_do_not_know_of_each_other(dataset):
    """In eval mode only rounding tells a batch from its images one by one: which kernel sums in which order. Images of
    several sizes are padded to the largest, which a network that sees far does see; `score` keeps sizes apart."""
    predictor = Predictor(built("unet"), description("unet", dataset))
    batch = torch.stack(
        [torch.from_numpy(i).permute(2, 0, 1).float() / 255 for i in images((64, 64), (64, 64), (64, 64))]
    )
    with torch.inference_mode():
        together = predictor.model(batch)["semantic"]
        alone = torch.cat([predictor.model(one[None])["semantic"] for one in batch])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_padding_lies_to_the_right_and_below_and_is_cut_off_again(dataset):
    """An image whose border is repeated by hand is the image that the predictor pads."""
    predictor = Predictor(built("unet"), description("unet", dataset))
    image = images((40, 50))[0]
    padded = np.pad(image, ((0, 24), (0, 14), (0, 0)), mode="edge")
    by_hand, by_itself = predictor.predict([padded])[0].semantic, predictor.predict([image])[0].semantic
    np.testing.assert_array_equal(by_itself, by_hand[:40, :50])


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8)), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((3, 8, 8), np.uint8)],
)
def test_what_is_no_image_is_refused(image, dataset):
    with pytest.raises(ValueError, match=r"images must be uint8\[h, w, 3\] in RGB, got "):
        Predictor(built("unet"), description("unet", dataset)).predict([image])
