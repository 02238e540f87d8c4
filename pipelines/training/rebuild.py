"""The model of a checkpoint, as it is measured and kept."""

from collections.abc import Mapping
from typing import Any

import torch

from pipelines.config import Params
from pipelines.data.schema import Manifest
from pipelines.inference import package
from pipelines.models.contract import SegmentationModel
from pipelines.pixels import Pixels


def rebuild(params: Params, manifest: Manifest, state: Mapping[str, Any] | None) -> SegmentationModel:
    """Without the weights that it began with, which need not be there any more; `state` None: with random ones."""
    section = {**params.model.model_dump(), "weights": "none"}
    model = package.build(params.task, section, manifest.classes, Pixels.of(manifest.mean, manifest.std))
    if state is not None:
        model.load_state_dict(weights(state))
    return model


def weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The moving average's, where there is one."""
    found: dict[str, torch.Tensor] = state["average"]["weights"] if state["average"] else state["model"]
    return found


def describe(task: str, manifest: Manifest) -> dict[str, Any]:
    """What a `Predictor` has to know."""
    return {
        "task": task,
        "classes": manifest.to_json()["classes"],
        "mean": manifest.mean,
        "std": manifest.std,
    }
