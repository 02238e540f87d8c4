"""What a dataset's scores are made of, image by image: images.npz. With that of another model on the same images a
paired bootstrap tells whether one is better than the other, without either model.

The file has `ids`; for each metric that is a function of sums its images' sums as [images, classes, ...]; and for AP,
which is none, the ranked detections and the truths of all images, with how many each image has. No pickle is in it.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import files
from pipelines.config import HEADLINE
from pipelines.data.schema import ClassInfo
from pipelines.errors import DataError
from pipelines.evaluation.evaluator import Evaluator
from pipelines.metrics import bootstrap, paired, resampled_ap, semantic
from pipelines.metrics import panoptic as quality
from pipelines.metrics.bootstrap import Scores
from pipelines.metrics.instance import InstanceMetrics
from pipelines.metrics.paired import Paired

SUMS = ("semantic", "boundary", "panoptic")


@dataclass(frozen=True, kw_only=True, slots=True)
class PerImage:
    """Of one model on one split."""

    task: str
    things: tuple[int, ...]
    ids: tuple[str, ...]
    sums: Mapping[str, np.ndarray]
    instance: InstanceMetrics | None

    @classmethod
    def of(cls, evaluator: Evaluator, ids: Sequence[str]) -> "PerImage":
        """Of an evaluation in detail, whose images had these ids in this order."""
        return cls(
            task=evaluator.task,
            things=evaluator.things,
            ids=tuple(ids),
            sums={name: np.stack(sums) for name, sums in evaluator.images.items() if sums},
            instance=evaluator.instance,
        )

    @classmethod
    def read(cls, path: Path, *, task: str, classes: Sequence[ClassInfo]) -> "PerImage":
        """DataError where the file is not what `write` makes of this task and these classes."""
        things = tuple(i for i, c in enumerate(classes) if c.isthing)
        try:
            with np.load(path, allow_pickle=False) as held:
                arrays = dict(held.items())
            ids = tuple(arrays["ids"].tolist())
            found = cls(
                task=task,
                things=things,
                ids=ids,
                sums={name: _shaped(arrays[name], len(ids), len(classes)) for name in SUMS if name in arrays},
                instance=InstanceMetrics.of_rows([c.name for c in classes], things=things, rows=arrays)
                if "detections" in arrays
                else None,
            )
            if found.instance is not None and found.instance.images != len(ids):
                raise ValueError(f"{len(ids)} ids and detections of {found.instance.images} images")
            if found.instance is None if task == "instance" else task not in found.sums:
                raise ValueError(f"it holds nothing of the {task} task")
        except FileNotFoundError:
            raise DataError(f"{path} is missing", do="measure again: dvc repro --force evaluate") from None
        except (OSError, ValueError, KeyError, TypeError, IndexError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is no record of images: {error}", do="measure again: dvc repro --force evaluate"
            ) from None
        return found

    def write(self, path: Path) -> None:
        arrays: dict[str, Any] = {**self.sums, **(self.instance.rows() if self.instance else {})}
        with files.replacing(path, "wb") as file:
            np.savez_compressed(file, ids=np.array(self.ids, str), **arrays)

    def headline(self) -> float | None:
        """The task's own metric of all images together."""
        name = HEADLINE[self.task]
        if self.task == "instance":
            value: float | None = None if self.instance is None else self.instance.compute()[name]
            return value
        total = float(self._scores()(self.sums[self.task].sum(axis=0))[name])
        return None if np.isnan(total) else total

    def scores(self) -> list[float | None]:
        """The task's own metric of each image alone."""
        name = HEADLINE[self.task]
        if self.instance is not None and self.task == "instance":
            return [alone.compute()[name] for alone in self.instance.each()]
        values = self._scores()(self.sums[self.task])[name]
        return [None if np.isnan(value) else value for value in values.tolist()]

    def replicates(self, *, resamples: int, seed: int) -> dict[str, np.ndarray]:
        """The scores of the task's own view over resamples of the images, [r] or by class [r, classes]."""
        if self.instance is not None and self.task == "instance":
            return resampled_ap.replicates(self.instance, "segm", resamples=resamples, seed=seed)
        return bootstrap.replicates(self.sums[self.task], self._scores(), resamples=resamples, seed=seed)

    def _scores(self) -> Scores:
        return semantic.scores if self.task == "semantic" else partial(quality.scores, things=self.things)


def difference(first: PerImage, second: PerImage, *, level: float, resamples: int, seed: int) -> Paired | None:
    """How much higher `second` scores than `first` in the headline, on the same images; None where it is undefined."""
    if first.ids != second.ids:
        raise DataError(f"two models were measured on different images: {len(first.ids)} and {len(second.ids)}")
    name, draws = HEADLINE[first.task], {"resamples": resamples, "seed": seed}
    old, new = (each.replicates(**draws)[name] for each in (first, second))
    return paired.difference(old, new, images=len(first.ids), level=level)


def _shaped(sums: np.ndarray, images: int, classes: int) -> np.ndarray:
    if sums.ndim < 2 or sums.shape[:2] != (images, classes) or sums.dtype.kind not in "iuf":
        raise ValueError(f"sums of {sums.dtype}{list(sums.shape)} for {images} images of {classes} classes")
    if not np.isfinite(sums).all():
        raise ValueError("sums that are no numbers")
    return sums
