"""What one prediction costs: the second objective of a search."""

import time
from pathlib import Path
from statistics import median

import numpy as np

from pipelines.config import Params
from pipelines.data.schema import Manifest
from pipelines.inference import package
from pipelines.inference.predictor import Predictor
from pipelines.pixels import Pixels
from pipelines.training.checkpoint import Checkpoints
from pipelines.training.validation import weights

WARM_UP, MEASURED = 2, 5


def measure(params: Params, manifest: Manifest, state: Path) -> float:
    """Milliseconds of CPU time for one image of the crop's size: the trial's own last weights, the median of a few.
    CPU time, not the clock's: other trials run beside this one."""
    model = package.build(
        params.task,
        {**params.model.model_dump(), "weights": "none"},
        manifest.classes,
        Pixels.of(manifest.mean, manifest.std),
    )
    if (saved := Checkpoints(state / "checkpoints").last()) is not None:
        model.load_state_dict(weights(saved))
    description = {
        "task": params.task,
        "classes": manifest.to_json()["classes"],
        "mean": manifest.mean,
        "std": manifest.std,
    }
    predictor = Predictor(model, description, "cpu")
    image = np.random.default_rng(0).integers(0, 256, (*params.train.augment.crop, 3), dtype=np.uint8)
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        started = time.process_time()
        predictor.predict([image])
        seconds.append(time.process_time() - started)
    return 1000 * median(seconds[WARM_UP:])
