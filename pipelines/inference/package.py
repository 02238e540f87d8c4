"""A trained model on disk: `model.safetensors` (weights, no pickle) and `model.json` (all that rebuilds it).

An exported one has its network as a graph in place of the weights (`graph`), and is loaded and used the same way.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from pipelines import files
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError
from pipelines.inference.options import Inference
from pipelines.inference.predictor import Predictor
from pipelines.models import MODELS, encoders
from pipelines.models.contract import Classes, SegmentationModel
from pipelines.models.crf_layer import WithCRF
from pipelines.models.quantised import quantise
from pipelines.pixels import Pixels

WEIGHTS, DESCRIPTION, INFERENCE, VERSION = "model.safetensors", "model.json", "inference.json", 1


def build(task: str, model: Mapping[str, Any], classes: tuple[ClassInfo, ...], pixels: Pixels) -> SegmentationModel:
    """The one place where a name becomes a model: search, training, evaluation and the registry come here.

    `model` is the section of params.yaml.
    """
    spec = MODELS[model["name"]]
    if spec.task != task:
        raise DataError(f"{model['name']} does the {spec.task} task, not {task}")
    table = Classes(
        things=tuple(i for i, c in enumerate(classes) if c.isthing),
        stuff=tuple(i for i, c in enumerate(classes) if not c.isthing),
    )
    built = spec.build(
        classes=table,
        encoder=encoders.Choice(model["encoder"], model.get("weights", "none"), in_channels=len(pixels.mean)),
        channels=model["channels"],
        **model.get(model["name"], {}),
    )
    built.pixels = pixels
    crf = model.get("crf") or {"iterations": 0}
    if crf["iterations"]:
        built = WithCRF(built, classes=table.count, **crf)
    if model.get("quantize"):
        quantise(built, built.stride)
    return built.to(memory_format=torch.channels_last)  # as the loader's images are


def save(folder: Path, model: nn.Module, description: Mapping[str, Any]) -> None:
    """The description last: a folder without one holds no model."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    beside = folder / f".{WEIGHTS}.tmp"
    save_file(state, beside)
    beside.replace(folder / WEIGHTS)
    weights = {"file": WEIGHTS, "sha256": files.sha256(folder / WEIGHTS)}
    described = {"version": VERSION, **description, "weights": weights}
    files.write_sealed(folder / DESCRIPTION, described)


def describe(folder: Path) -> dict[str, Any]:
    """model.json, checked for being one of ours."""
    path = folder / DESCRIPTION
    again = "train again: dvc repro --force train"
    try:
        description: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, checksum = description["version"], description.pop("checksum", None)
    except FileNotFoundError:
        raise DataError(f"{path} is missing: there is no trained model in {folder}", do="dvc repro train") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}", do=again) from None
    if version != VERSION:
        raise DataError(f"{path} has format version {version}, this build reads {VERSION}", do=again)
    if files.digest(description) != checksum:
        raise DataError(f"{path} is damaged: it is not what training wrote", do=again)
    return description


def load(folder: Path, *, device: str = "cpu", inference: Inference | None = None) -> Predictor:
    """Rebuild the model; its weights are believed only when their hash is the one that was written.

    Without `inference` it is asked as it was registered, plainly if it was not.
    """
    description = describe(folder)
    if inference is None:
        inference = registered(folder)
    classes = tuple(ClassInfo(**{**c, "color": tuple(c["color"])}) for c in description["classes"])
    pixels = Pixels.of(description["mean"], description["std"])
    model = build(description["task"], {**description["model"], "weights": "none"}, classes, pixels)
    if is_exported(description):
        from pipelines.inference import graph  # ONNX Runtime, which no other package needs

        return Predictor(graph.load(folder, description, model), description, device, inference)
    _fill(model, folder / WEIGHTS, description["weights"]["sha256"])
    return Predictor(model, description, device, inference)


def is_exported(description: Mapping[str, Any]) -> bool:
    return bool(description["weights"]["file"] != WEIGHTS)


def _fill(model: nn.Module, path: Path, wanted: str) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing", do="train again: dvc repro --force train")
    if (found := files.sha256(path)) != wanted:
        raise DataError(
            f"{path} is damaged: sha256 mismatch, found {found[:12]}, expected {wanted[:12]}",
            do="fetch it again (dvc checkout), or train again: dvc repro --force train",
        )
    try:
        model.load_state_dict(load_file(path), strict=True)
    except (SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} does not fit the model that {DESCRIPTION} describes: {error}") from None


def registered(folder: Path) -> Inference:
    """How the model was asked when it was registered: plainly, if it was not."""
    path = folder / INFERENCE
    try:
        return Inference.of(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Inference()
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}", do="register the model again") from None
