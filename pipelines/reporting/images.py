"""What an evaluation keeps of each image: its own score, for people, and the sums that a dataset's scores are made of.

images.csv has a row per image. images.npz has `ids`, and for each metric that is a function of sums its images' sums as
[images, classes, ...]: with those of another model on the same images, a paired bootstrap (pipelines.metrics.bootstrap)
tells whether one is better than the other, without either model.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import files
from pipelines.reporting import plots


def write(
    folder: Path, *, headline: str, scores: Mapping[str, float | None], images: Mapping[str, Sequence[np.ndarray]]
) -> None:
    """`scores` by image, and `images` as `Evaluator.images`, in the same order."""
    plots.table(folder / "images.csv", ["id", headline], scores.items())
    arrays: dict[str, Any] = {name: np.stack(sums) for name, sums in images.items() if sums}
    with files.replacing(folder / "images.npz", "wb") as file:
        np.savez_compressed(file, ids=np.array(list(scores), str), **arrays)
