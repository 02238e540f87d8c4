"""Is the exported file still the model that was measured? The same evaluator, on the same images, says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.config import HEADLINE
from pipelines.errors import RunError
from pipelines.inference.predictor import Predictor

Scores = Mapping[str, Mapping[str, Any]]  # by view, as the evaluator gives them


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Of one metric."""

    metric: str
    original: float | None
    exported: float | None
    bound: float

    @property
    def size(self) -> float:
        """Infinite, where one of them has a value and the other has none."""
        if self.original is None or self.exported is None:
            return 0.0 if self.original is self.exported else float("inf")
        return abs(self.original - self.exported)

    def __str__(self) -> str:
        was, now = ("undefined" if v is None else f"{v:.4f}" for v in (self.original, self.exported))
        return f"{self.metric}: {was} -> {now}, {self.size:.4f} apart (allowed: {self.bound})"


def differences(original: Scores, exported: Scores, bound: float) -> list[Difference]:
    """Of the one metric of each view that the task gives: mIoU, AP, PQ."""
    return [
        Difference(
            metric=f"{view}.{HEADLINE[view]}",
            original=original[view][HEADLINE[view]],
            exported=exported[view][HEADLINE[view]],
            bound=bound,
        )
        for view in original
    ]


def gate(precision: str, found: list[Difference], do: str) -> None:
    """RunError, with all numbers, where one is too large."""
    if any(difference.size > difference.bound for difference in found):
        lines = "\n".join(f"  - {difference}" for difference in found)
        raise RunError(f"the {precision} export is another model than the one that was measured:\n{lines}\ndo: {do}")


def raw_difference(original: Predictor, exported: Predictor, image: np.ndarray) -> dict[str, float]:
    """The largest difference of each raw output, as a fraction of the largest value that it has in the original."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
    height, width = (side - side % original.model.stride for side in pixels.shape[-2:])
    pixels = pixels[..., :height, :width]
    with torch.no_grad():
        wanted, found = (p.model(p.pixels.normalise(pixels)) for p in (original, exported))
    return {
        name: float((found[name] - value).abs().max() / value.abs().max().clamp(min=1e-12))
        for name, value in wanted.items()
    }
