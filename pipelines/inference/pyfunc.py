"""The registered model as MLflow loads it: encoded images in, one row of masks and segments per image out.

    model = mlflow.pyfunc.load_model("models:/maskline-panoptic@champion")
    rows = model.predict(pandas.DataFrame({"image": [png_or_jpeg_bytes, ...]}))   # or a list of bytes, or bytes

Columns of the answer; those of a view that the model's task does not give are None:

    height, width   of the image as it is looked at (EXIF turns it), and of all that follows
    semantic        PNG, 8 bits: each pixel's class id, an index into the model's class table
    instances       JSON list, best score first: {category, name, score, bbox, area, rle}; masks may overlap
    panoptic        PNG, 16 bits: each pixel's segment id, 0 for none
    segments        JSON list: {id, category, name, isthing, bbox, area} of each segment in `panoptic`

`category` is the class id, `bbox` is x, y, width, height in pixels, and `rle` is COCO's uncompressed run length
encoding ({size: [height, width], counts: [...]}, column-major, zeros first): `pycocotools.mask.frPyObjects` reads it.
The lists are COCO's: `instances` as in its results, `segments` as in its panoptic annotations.

`load_model(..., model_config={"device": "cuda", "batch_size": 16})` overrides where and in what portions it predicts.
A server (`mlflow models serve`) takes base64: {"dataframe_split": {"columns": ["image"], "data": [["iVBOR..."]]}}.

MLflow runs this file from the model's folder, beside a copy of this package (models from code): there is no pickle in
the model, and the weights are believed only when their hash is the recorded one. Load one version per process: Python
keeps the code of the first. Images are bounded in format and pixels as at ingest; a server for strangers should bound
the memory and the time of its processes as well.
"""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from PIL import Image

from pipelines.data import decode, rle
from pipelines.data.prediction import Instances, Panoptic, Prediction
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError, bounded
from pipelines.inference import package
from pipelines.inference.batches import batches

COLUMNS = ("height", "width", "semantic", "instances", "panoptic", "segments")


class Segmenter(PythonModel):
    """A package behind MLflow's interface."""

    def load_context(self, context: Any) -> None:
        config = {"device": "auto", "batch_size": 8, **(context.model_config or {})}
        device = config["device"]
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.batch_size = int(config["batch_size"])
        self.predictor = package.load(Path(context.artifacts["package"]), device=device)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        try:
            images = pixels(model_input.iloc[:, 0].tolist())
        except DataError as error:  # as MLflow's server expects it: status 400 with this text
            raise MlflowException.invalid_parameter_value(str(error)) from None
        rows = [
            describe(image, prediction, self.predictor.classes)
            for batch in batches(images, self.batch_size, shape=np.shape)
            for image, prediction in zip(batch, self.predictor.predict(batch), strict=True)
        ]
        return pd.DataFrame(rows, columns=list(COLUMNS), index=model_input.index, dtype=object)


def pixels(encoded: Sequence[Any]) -> list[np.ndarray]:
    """Encoded images, of the formats and sizes that ingest takes, -> uint8[h, w, 3] in RGB; all bad ones in one
    message."""
    images, faults = [], []
    for row, data in enumerate(encoded):
        if not isinstance(data, bytes):
            faults.append(f"row {row}: must be the bytes of an encoded image, got {type(data).__name__}")
            continue
        try:
            images.append(decode.image(data).shown())
        except DataError as error:
            faults.append(f"row {row}: {error}")
    if faults:
        raise DataError(f"{len(faults)} of {len(encoded)} images cannot be read", bounded(faults))
    return images


def describe(image: np.ndarray, prediction: Prediction, classes: Sequence[ClassInfo]) -> dict[str, Any]:
    """One row of the answer."""
    semantic, instances, panoptic = prediction.semantic, prediction.instances, prediction.panoptic
    return {
        "height": image.shape[0],
        "width": image.shape[1],
        "semantic": None if semantic is None else _png(semantic),
        "instances": None if instances is None else json.dumps(list(_instances(instances, classes))),
        "panoptic": None if panoptic is None else _png(panoptic.ids.astype(np.uint16)),
        "segments": None if panoptic is None else json.dumps(list(_segments(panoptic, classes))),
    }


def _instances(found: Instances, classes: Sequence[ClassInfo]) -> Iterator[dict[str, Any]]:
    for i in np.argsort(-found.scores, kind="stable").tolist():
        mask, category = found.masks[i], int(found.labels[i])
        yield {
            "category": category,
            "name": classes[category].name,
            "score": float(found.scores[i]),
            "bbox": list(rle.bbox(mask)),
            "area": int(mask.sum()),
            "rle": {"size": list(mask.shape), "counts": rle.encode(mask).tolist()},
        }


def _segments(found: Panoptic, classes: Sequence[ClassInfo]) -> Iterator[dict[str, Any]]:
    for number, category in enumerate(found.labels.tolist(), start=1):
        mask = found.ids == number
        yield {
            "id": number,
            "category": category,
            "name": classes[category].name,
            "isthing": classes[category].isthing,
            "bbox": list(rle.bbox(mask)),
            "area": int(mask.sum()),
        }


def _png(values: np.ndarray) -> bytes:
    """uint8[h, w] or uint16[h, w]"""
    file = io.BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


set_model(Segmenter())
