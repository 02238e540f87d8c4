"""What one prediction costs: the second objective of a search."""

import time
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from pipelines.config import Params
from pipelines.data.schema import Manifest
from pipelines.inference.cost import seconds
from pipelines.inference.predictor import Predictor
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.rebuild import describe, rebuild

WARM_UP, MEASURED = 2, 5


def measure(params: Params, manifest: Manifest, state: Path) -> float:
    """Milliseconds of CPU time for one image of the crop's size: the trial's own last weights, the median of a few.
    CPU time, not the clock's: other trials run beside this one."""
    model = rebuild(params, manifest, Checkpoints.of(state).last())
    predictor = Predictor(model, describe(params.task, manifest), "cpu")
    image = np.random.default_rng(0).integers(0, 256, (*params.train.augment.crop, 3), dtype=np.uint8)
    ask = partial(predictor.predict, [image])
    times = [seconds(ask, clock=time.process_time) for _ in range(WARM_UP + MEASURED)]
    return 1000 * median(times[WARM_UP:])
