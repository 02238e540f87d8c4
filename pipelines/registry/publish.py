"""A package as an MLflow model folder: the weights, the code that loads them, what it needs, how it is called."""

import io
import logging
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import save_model
from mlflow.types import ColSpec, Schema
from PIL import Image

import pipelines
from pipelines import files, inference
from pipelines.inference import package
from pipelines.inference.options import Inference

CARD, PICTURE = "README.md", "predictions.jpg"
WIDEST = 1600  # of the picture, in pixels: a card is looked at, not measured
# What the loaded model imports; a test loads one where everything else is refused.
REQUIREMENTS = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "pyyaml",
    "safetensors",
    "scikit-image",
    "scipy",
    "timm",
    "torch",
    "torchvision",
)
OUTPUTS = {
    "height": "long",
    "width": "long",
    "semantic": "binary",
    "instances": "string",
    "panoptic": "binary",
    "segments": "string",
}


def write(
    folder: Path,
    *,
    source: Path,
    card: str,
    metrics: Path,
    asked: Inference,
    picture: Path | None = None,
    model_id: str,
    run_id: str,
    about: dict[str, Any],
) -> None:
    """Make `folder` a model that `mlflow.pyfunc.load_model` reads anywhere, from the package in `source`."""
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    here = folder.with_name(f"{folder.name}.parts") / "package"
    here.mkdir(parents=True)
    try:
        for name in (package.WEIGHTS, package.DESCRIPTION):
            shutil.copyfile(source / name, here / name)  # DVC may have them as links, which MLflow refuses
        shutil.copyfile(metrics, here / metrics.name)
        if not asked.plain:
            files.write_json(here / package.INFERENCE, asked.to_json())
        save_model(
            folder,
            python_model=Path(inference.__file__).with_name("pyfunc.py"),
            code_paths=[str(Path(pipelines.__file__).parent)],
            artifacts={"package": str(here)},
            # Not named, so that a list of bytes and single bytes are taken as well as a column of them.
            signature=ModelSignature(
                inputs=Schema([ColSpec("binary")]),
                outputs=Schema([ColSpec(kind, name, required=False) for name, kind in OUTPUTS.items()]),
            ),
            input_example=pd.DataFrame({"image": [example()]}),
            pip_requirements=requirements(),
            model_config={"device": "auto", "batch_size": 8},
            metadata=dict(about),
            mlflow_model=Model(model_id=model_id, model_uuid=model_id, run_id=run_id),
        )
    finally:
        files.remove(here.parent)
    for bytecode in list(folder.rglob("__pycache__")):
        files.remove(bytecode)
    files.write_text(folder / CARD, card)
    if picture is not None and picture.is_file():
        _shrink(picture, folder / PICTURE)


def requirements() -> list[str]:
    """Exactly what is installed, without the build (`+cpu`) that only its own index offers."""
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def _shrink(picture: Path, to: Path) -> None:
    with Image.open(picture, formats=["JPEG"]) as opened:
        opened.thumbnail((WIDEST, 4 * WIDEST))
        opened.convert("RGB").save(to, "JPEG", quality=85, optimize=True)


def example() -> bytes:
    """A drawn PNG: a picture of the dataset might not be ours to give away."""
    y, x = np.mgrid[:64, :64]
    disc = (x - 24) ** 2 + (y - 36) ** 2 < 14**2
    picture = np.stack([x * 4, y * 4, np.where(disc, 255, 40)], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
