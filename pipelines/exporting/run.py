"""From a package to packages of its graph, each held against it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.data.shards import ShardReader
from pipelines.errors import DataError
from pipelines.evaluation.evaluator import score
from pipelines.exporting import cost, parity, quantise, table, write
from pipelines.inference import package
from pipelines.inference.options import Inference
from pipelines.inference.predictor import Predictor
from pipelines.loading.batch import decode
from pipelines.models import quantised
from pipelines.progress import Progress

BETTER = {
    "float32": "report it with the model's parameters: torch and ONNX Runtime should agree to 1e-4",
    "int8": "calibrate on more images or by another method (export.calibration), train with model.quantize: true, "
    "or set export.int8: false",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How an export is made and judged."""

    split: str
    batch_size: int
    int8: bool
    calibration: dict[str, Any]  # images, method
    max_loss: dict[str, float]  # by precision
    rounds: int


def export(source: Path, data: Path, out: Path, settings: Settings) -> dict[str, Any]:
    """Write `out/<precision>/` and return what parity.json says; RunError where one is not the model any more."""
    original = package.load(source, inference=Inference())
    row = table.row_of(original.description)
    reader = ShardReader(data, settings.split)
    _same_classes(original.classes, reader)
    if original.description["model"].get("quantize"):
        made = {"int8": out / "int8"}
        network = quantise.trained(write.graph(unrounded(original)), quantised.ranges(original.model))
        write.save(made["int8"], network, original, row, "int8", {"calibration": "trained"})
    else:
        made = {"float32": out / "float32"}
        network = write.graph(original)
        write.save(made["float32"], network, original, row, "float32")
    if settings.int8 and "int8" not in made:
        method, images = settings.calibration["method"], list(_calibration(data, original, settings))
        made["int8"] = out / "int8"
        about = {"calibration": {"split": "train", "images": len(images), "method": method}}
        write.save(made["int8"], quantise.calibrated(network, images, method=method), original, row, "int8", about)
    return _compare(original, made, reader, settings, source)


def unrounded(trained: Predictor) -> Predictor:
    """A model that was trained for int8, with the same weights and nothing rounded: the graph does that."""
    description = {**trained.description, "model": {**trained.description["model"], "quantize": False}}
    model = package.build(trained.task, {**description["model"], "weights": "none"}, trained.classes, trained.pixels)
    state = trained.model.state_dict()
    model.load_state_dict({name: state[name] for name in model.state_dict()})
    return Predictor(model, description)


def _compare(
    original: Predictor, made: dict[str, Path], reader: ShardReader, settings: Settings, source: Path
) -> dict[str, Any]:
    predictors = {"torch": original} | {name: package.load(folder) for name, folder in made.items()}
    example = decode(reader[0])
    scores = {name: _score(name, predictor, reader, settings.batch_size) for name, predictor in predictors.items()}
    for name in made:
        found = parity.differences(scores["torch"], scores[name], settings.max_loss[name])
        parity.gate(name, found, BETTER[name])
    times = cost.latencies(predictors, example, rounds=settings.rounds)
    files_of = {"torch": source / package.WEIGHTS, **{name: folder / "model.onnx" for name, folder in made.items()}}
    return {
        "model": original.description["model"]["name"],
        "task": original.task,
        "weights": original.description["weights"]["sha256"],
        "dataset": {"hash": reader.manifest.hash, "split": settings.split, "images": len(reader)},
        "sides": {
            name: {
                **{f"{view}.{HEADLINE[view]}": values[HEADLINE[view]] for view, values in scores[name].items()},
                **times[name],
                "file_bytes": files_of[name].stat().st_size,
                "speed": times["torch"]["network_ms"] / times[name]["network_ms"],
                "raw_difference": {} if name == "torch" else parity.raw_difference(original, predictors[name], example),
            }
            for name in predictors
        },
        "image": list(example.shape[:2]),  # that latencies are of: the first of the split
        "max_loss": settings.max_loss,
    }


def _score(name: str, predictor: Predictor, reader: ShardReader, batch_size: int) -> parity.Scores:
    with Progress(f"export {name}", len(reader), "images") as progress:
        return score(predictor, reader, batch_size=batch_size, progress=progress).compute()


def _calibration(data: Path, original: Predictor, settings: Settings) -> Iterator[np.ndarray]:
    """Evenly spread over the training split, never of the one that is measured on: float32[1, 3, h, w], padded as for
    the network."""
    reader = ShardReader(data, "train")
    if not len(reader):
        raise DataError("the train split has no images to calibrate with", do="set export.int8: false")
    count = min(settings.calibration["images"], len(reader))
    for i in range(count):
        image, stride = decode(reader[i * len(reader) // count]), original.model.stride
        border = [(0, -side % stride) for side in image.shape[:2]]
        yield np.pad(image, [*border, (0, 0)], mode="edge").transpose(2, 0, 1)[None].astype(np.float32)


def _same_classes(classes: Sequence[ClassInfo], reader: ShardReader) -> None:
    known, found = ([(c.name, c.isthing) for c in table] for table in (classes, reader.manifest.classes))
    if known != found:
        names = (", ".join(name for name, _ in table) for table in (known, found))
        raise DataError("the model knows the classes {}, the dataset has {}".format(*names), do="dvc repro train")
    if not len(reader):
        raise DataError(f"the {reader.split} split has no images", do="set export.split to another one")
