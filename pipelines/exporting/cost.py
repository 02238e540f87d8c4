"""What an exported file costs beside the original: both are timed in turns, so that what else the machine does meets
both alike."""

import time
from collections.abc import Mapping
from statistics import median

import numpy as np
import torch

from pipelines.inference.predictor import Predictor

WARM_UP = 2


def latencies(predictors: Mapping[str, Predictor], image: np.ndarray, *, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds for one image, medians: of the network alone, and to the end, with what comes after it."""
    inputs = {name: _input(predictor, image) for name, predictor in predictors.items()}
    network: dict[str, list[float]] = {name: [] for name in predictors}
    whole: dict[str, list[float]] = {name: [] for name in predictors}
    with torch.no_grad():
        for turn in range(WARM_UP + rounds):
            for name, predictor in predictors.items():
                started = time.perf_counter()
                predictor.model(inputs[name])
                between = time.perf_counter()
                predictor.predict([image])
                if turn >= WARM_UP:
                    network[name].append(between - started)
                    whole[name].append(time.perf_counter() - between)
    return {
        name: {"network_ms": 1000 * median(network[name]), "whole_ms": 1000 * median(whole[name])}
        for name in predictors
    }


def _input(predictor: Predictor, image: np.ndarray) -> torch.Tensor:
    """As `predict` would hand it to the network, but for the border."""
    stride = predictor.model.stride
    height, width = (-(-side // stride) * stride for side in image.shape[:2])
    padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge")
    return predictor.pixels.normalise(torch.from_numpy(padded).permute(2, 0, 1)[None].to(predictor.device))
