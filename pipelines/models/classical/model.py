"""The classical methods as models: fitted on some training images, then asked like any network.

`fit` counts what the labeller needs and tries the method's settings: counted on every other image, judged by mean IoU
on those between, at most `JUDGED` of them; then all images are counted again for what did best. That is kept in
buffers, whose shapes are known before. The work itself is numpy's, in one operator that torch does not look into, so
that torch.compile and torch.export carry it as a node, and the buffers with it.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.errors import DataError
from pipelines.models import encoders
from pipelines.models.classical.active_contour import ActiveContour
from pipelines.models.classical.base import Method
from pipelines.models.classical.grabcut import GrabCut
from pipelines.models.classical.histogram import Histogram
from pipelines.models.classical.kmeans import KMeans
from pipelines.models.classical.labeller import BALANCES, Counts, Labeller, mean_iou
from pipelines.models.classical.local_threshold import LocalThreshold
from pipelines.models.classical.markov_random_field import MarkovRandomField
from pipelines.models.classical.mean_shift import MeanShift
from pipelines.models.classical.normalized_cut import NormalizedCut
from pipelines.models.classical.region_growing import RegionGrowing
from pipelines.models.classical.superpixels import Superpixels
from pipelines.models.classical.threshold import Threshold
from pipelines.models.classical.watershed import Watershed
from pipelines.models.contract import Classes, FittedModel, ModelSpec, Outputs
from pipelines.models.heads import SemanticModel

METHODS: dict[str, Method] = {
    "threshold": Threshold(),
    "local_threshold": LocalThreshold(),
    "histogram": Histogram(),
    "region_growing": RegionGrowing(),
    "kmeans": KMeans(),
    "mean_shift": MeanShift(),
    "watershed": Watershed(),
    "active_contour": ActiveContour(),
    "grabcut": GrabCut(),
    "normalized_cut": NormalizedCut(),
    "markov_random_field": MarkovRandomField(),
    "superpixels": Superpixels(),
}
JUDGED = 16  # images on which each setting is tried
SHORTEST = 8  # pixels of either side
Sample = tuple[np.ndarray, np.ndarray]  # RGB uint8[h, w, 3], class ids uint8[h, w]


class Classical(FittedModel, SemanticModel):
    """One of METHODS. `encoder` and `channels` are networks' matters, and mean nothing here."""

    stride = 1
    fitted: Tensor  # bool
    setting: Tensor  # int64: of the method's
    prior: Tensor  # float32[classes], as the labeller has it; so are its tables, by their names

    def __init__(
        self,
        method: str,
        *,
        classes: Classes,
        encoder: encoders.Choice = encoders.PAPER,
        channels: int | None = None,
    ):
        super().__init__()
        self.name, self.method, self.classes = method, METHODS[method], classes.count
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("setting", torch.tensor(0))
        self.register_buffer("prior", torch.zeros(self.classes))
        for code, size in self.method.codes.items():
            self.register_buffer(code, torch.zeros(size, self.classes))

    def forward(self, images: Tensor) -> Outputs:
        assert self.pixels is not None, "whoever builds the model says what normalised its images"  # noqa: S101
        pixels = self.pixels.restore(images).round().clamp(0, 255).to(torch.uint8)
        tables = [self.get_buffer(code) for code in self.method.codes]
        return {"semantic": segment(pixels, self.fitted, self.setting, self.prior, tables, self.name)}

    def fit(self, samples: Iterable[Sample]) -> None:
        given = [shrunk(colours(image), truth, self.method.longest) for image, truth in samples]
        labelled = [(image, truth) for image, truth in given if (truth < self.classes).any()]
        if not labelled:
            raise DataError(
                f"{self.name} is fitted on labelled pixels, and none of {len(given)} training images has any",
                do="set model.fit_images higher, or look at what validate says of the labels",
            )
        setting, balance = chosen(self.method, labelled, self.classes)
        learned = counted(self.method, labelled, self.classes, self.method.settings[setting]).labeller(balance)
        for name, values in {"prior": learned.prior, **learned.tables}.items():
            self.get_buffer(name).copy_(torch.from_numpy(values))
        self.setting.fill_(setting)
        self.fitted.fill_(True)


def baseline(method: str, *, paper: str) -> ModelSpec:
    """A row of the table MODELS."""
    return ModelSpec(build=partial(Classical, method), task="semantic", paper=paper)


@torch.library.custom_op("maskline::classical", mutates_args=())
def segment(
    pixels: Tensor, fitted: Tensor, setting: Tensor, prior: Tensor, tables: Sequence[Tensor], name: str
) -> Tensor:
    """uint8[b, c, h, w] and a model's buffers -> float32[b, classes, h, w], of which softmax makes probabilities."""
    if not fitted:
        raise DataError(
            f"{name} has seen no image yet, and cannot tell the classes", do="fit it first: dvc repro train"
        )
    method = METHODS[name]
    which = method.settings[int(setting)]
    values = (table.cpu().numpy() for table in tables)
    labeller = Labeller(prior.cpu().numpy(), dict(zip(method.codes, values, strict=True)))
    height, width = pixels.shape[-2:]
    scores = pixels.new_empty((len(pixels), len(prior), height, width), dtype=torch.float32)
    for image, into in zip(pixels.permute(0, 2, 3, 1).cpu().numpy(), scores, strict=True):
        small = resized(colours(image), method.longest, cv2.INTER_AREA)
        refined = method.refine(small, labeller.scores(method.encode(small, which)), which)
        found = torch.from_numpy(refined)[None]
        into.copy_(F.interpolate(found, (height, width), mode="bilinear", align_corners=False)[0])
    return scores


@segment.register_fake
def _(pixels: Tensor, fitted: Tensor, setting: Tensor, prior: Tensor, tables: Sequence[Tensor], name: str) -> Tensor:
    batch, _, height, width = pixels.shape
    return pixels.new_empty((batch, len(prior), height, width), dtype=torch.float32)


def counted(method: Method, samples: Sequence[Sample], classes: int, setting: Any) -> Counts:
    counts = Counts.none(method.codes, classes)
    for image, truth in samples:
        counts.add(method.encode(image, setting), truth)
    return counts


def chosen(method: Method, samples: Sequence[Sample], classes: int) -> tuple[int, float]:
    """Which setting, and which balance between frequent and rare classes (before refinement, which costs the most)."""
    known, held_out = samples[::2], (samples[1::2] or samples)[:JUDGED]
    images, truths = zip(*held_out, strict=True)

    def judged(found: Iterable[np.ndarray]) -> float:
        return mean_iou(zip((scores.argmax(axis=0) for scores in found), truths, strict=True), classes)

    tried = []
    for i, setting in enumerate(method.settings):
        counts = counted(method, known, classes, setting)
        labellers = {balance: counts.labeller(balance) for balance in BALANCES}
        codes = [method.encode(image, setting) for image in images]
        balance = max(labellers, key=lambda b: judged(map(labellers[b].scores, codes)))
        scores = map(labellers[balance].scores, codes)
        refined = (method.refine(image, given, setting) for image, given in zip(images, scores, strict=True))
        tried.append((judged(refined), i, balance))
    _, i, balance = max(tried, key=lambda t: t[0])  # the first of equals
    return i, balance


def colours(image: np.ndarray) -> np.ndarray:
    """uint8[h, w] or [h, w, c] -> [h, w, 3]: the first three channels, or the first as grey where there are fewer."""
    channels = image[..., None] if image.ndim == 2 else image
    first = channels[..., :3] if channels.shape[2] >= 3 else channels[..., :1].repeat(3, axis=2)
    return np.ascontiguousarray(first)


def resized(image: np.ndarray, longest: int, interpolation: int) -> np.ndarray:
    """So that no side is longer; nor shorter than SHORTEST, below which some methods find nothing to work on."""
    scale = min(1.0, longest / max(image.shape[:2]))
    height, width = (max(SHORTEST, round(size * scale)) for size in image.shape[:2])
    resized: np.ndarray = cv2.resize(image, (width, height), interpolation=interpolation)
    return resized


def shrunk(image: np.ndarray, truth: np.ndarray, longest: int) -> Sample:
    return resized(image, longest, cv2.INTER_AREA), resized(truth, longest, cv2.INTER_NEAREST)
