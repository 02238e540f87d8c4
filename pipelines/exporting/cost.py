"""What an exported file costs beside the original: both are timed in turns, so that what else the machine does meets
both alike."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import numpy as np
import torch

from pipelines.inference.predictor import Predictor

WARM_UP = 2
# Processor time is what a busy machine does not change; with more than one thread it is that of all of them.
CLOCKS: dict[str, Callable[[], float]] = {"ms": time.process_time, "clock_ms": time.perf_counter}


def latencies(predictors: Mapping[str, Predictor], image: np.ndarray, *, rounds: int) -> dict[str, dict[str, float]]:
    """Medians for one image, of the network alone and to the end, with what comes after it: milliseconds of processor
    time (`network_ms`, `whole_ms`), and by the clock (`network_clock_ms`, `whole_clock_ms`)."""
    inputs = {name: _input(predictor, image) for name, predictor in predictors.items()}
    found: dict[str, dict[str, list[float]]] = {name: {} for name in predictors}
    with torch.no_grad():
        for turn in range(WARM_UP + rounds):
            for name, predictor in predictors.items():
                started = _now()
                predictor.model(inputs[name])
                between = _now()
                predictor.predict([image])
                ended = _now()
                for clock in CLOCKS if turn >= WARM_UP else ():
                    found[name].setdefault(f"network_{clock}", []).append(between[clock] - started[clock])
                    found[name].setdefault(f"whole_{clock}", []).append(ended[clock] - between[clock])
    return {name: {what: 1000 * median(values) for what, values in times.items()} for name, times in found.items()}


def _now() -> dict[str, float]:
    return {name: clock() for name, clock in CLOCKS.items()}


def _input(predictor: Predictor, image: np.ndarray) -> torch.Tensor:
    """As `predict` would hand it to the network, but for the border."""
    stride = predictor.model.stride
    height, width = (-(-side // stride) * stride for side in image.shape[:2])
    padded = np.pad(image, ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)), mode="edge")
    return predictor.pixels.normalise(torch.from_numpy(padded).permute(2, 0, 1)[None].to(predictor.device))
