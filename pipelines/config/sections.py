"""The sections that belong to one stage each, and `dataset`."""

import re
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from pipelines.config.fields import Above0, Count, Fraction, Positive, Section, Weight
from pipelines.config.model import CRF

FormatName = Literal[
    "shapes", "folder", "instance-folder", "labelme", "voc", "pascal-context", "coco", "coco-stuff", "coco-panoptic",
    "cityscapes", "kitti", "mapillary-vistas", "camvid", "ade20k", "ade20k-full",
]  # fmt: skip
PerSplit = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Shapes(Section):
    height: Annotated[int, Field(ge=32, le=4096)]
    width: Annotated[int, Field(ge=32, le=4096)]
    difficulty: Fraction


class Splits(Section):
    train: PerSplit
    val: PerSplit
    test: PerSplit


class Dataset(Section):
    format: FormatName
    root: Annotated[str, Field(min_length=1)]
    splits: Splits
    stratify: bool
    group: str | None
    max_rejected: Fraction
    depth: Annotated[int, Field(ge=8, le=16)]
    storage: Literal["encoded", "decoded"]
    shapes: Shapes

    @field_validator("splits")
    @classmethod
    def _in_the_format_s_unit(cls, splits: Splits, info: ValidationInfo) -> Splits:
        values = splits.model_dump()
        if info.data.get("format") == "shapes" and not all(float(v).is_integer() for v in values.values()):
            raise ValueError(f"must be whole numbers of images for format 'shapes', got {values}")
        if not sum(values.values()):
            raise ValueError(f"must not all be 0, got {values}")
        return splits

    @field_validator("group")
    @classmethod
    def _a_pattern(cls, group: str | None) -> str | None:
        try:
            groups = re.compile(group or "").groups
        except re.error as error:
            raise ValueError(f"is no regular expression ({error}), got {group!r}") from None
        if groups > 1:
            raise ValueError(f"must have one pair of parentheses at most, got {group!r}")
        return group


class Ingest(Section):
    workers: Positive
    rows_per_shard: Positive
    store: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.")] | None


class MinImages(Section):
    train: Count
    val: Count
    test: Count


class Validate(Section):
    min_images: MinImages
    max_ignored: Fraction
    min_class_pixels: Count
    max_class_drift: Fraction
    max_size_drift: Fraction
    repeat_threshold: Fraction
    effective_beta: Annotated[float, Field(gt=0, lt=1)]
    workers: Positive


class Augment(Section):
    crop: Annotated[list[Annotated[int, Field(ge=16)]], Field(min_length=2, max_length=2)]
    scale: Annotated[list[Annotated[float, Field(gt=0, le=8)]], Field(min_length=2, max_length=2)]
    flip: Fraction
    color: Fraction

    @field_validator("scale")
    @classmethod
    def _low_high(cls, scale: list[float]) -> list[float]:
        if scale[0] > scale[1]:
            raise ValueError(f"must be [smallest, largest], got {scale}")
        return scale


class Validation(Section):
    """Of a model that is being trained, on the validation split."""

    every: Positive
    beside: bool


class Guards(Section):
    """What ends a run, or rolls it back, before it learns from numbers that are none."""

    spike: Weight
    rollbacks: Count
    hang_seconds: Above0


class Distill(Section):
    """Learning from a trained model too."""

    teacher: Annotated[str, Field(min_length=1)] | None
    weight: Weight
    temperature: Above0


class Train(Section):
    epochs: Positive
    batch_size: Positive
    accumulate: Positive
    workers: Positive
    min_workers: Positive
    loader_workers: Count
    device: Literal["auto", "cpu", "cuda"]
    parallel: Literal["ddp", "fsdp"]
    precision: Literal["float32", "bfloat16"]
    compile: bool
    sync_batch_norm: bool
    optimizer: Literal["adamw", "sgd"]
    learning_rate: Annotated[float, Field(gt=0, le=100)]
    scaling: Literal["none", "linear", "sqrt"]
    reference_batch: Positive
    encoder_rate: Weight
    layer_decay: Annotated[float, Field(gt=0, le=1)]
    weight_decay: Weight
    schedule: Literal["poly", "cosine", "one_cycle", "constant"]
    warmup: Fraction
    clip_norm: Weight
    ema: Annotated[float, Field(ge=0, lt=1)]
    patience: Count
    sampling: Literal["uniform", "repeat_factor"]
    validation: Validation
    checkpoint_minutes: Above0
    guards: Guards
    distill: Distill
    max_failures: Count
    augment: Augment

    @property
    def passes(self) -> int:
        """Forward passes of all workers together for one update: each is normalised on its own, so that what is
        learned does not depend on how many workers share them."""
        return self.workers * self.accumulate

    @field_validator("workers")
    @classmethod
    def _divides_the_batch(cls, workers: int, info: ValidationInfo) -> int:
        batch, accumulate = info.data.get("batch_size", 0), info.data.get("accumulate", 1)
        if batch % (workers * accumulate):
            times = f" x train.accumulate {accumulate}" if accumulate > 1 else ""
            raise ValueError(
                f"train.batch_size {batch} is not a multiple of {workers} workers{times}: change one of them"
            )
        return workers

    @field_validator("min_workers")
    @classmethod
    def _of_the_workers(cls, least: int, info: ValidationInfo) -> int:
        if least > info.data.get("workers", least):
            raise ValueError(f"{least} is more than train.workers {info.data['workers']}: change one of them")
        return least

    @model_validator(mode="after")
    def _whole_where_workers_share_statistics(self) -> "Train":
        if self.sync_batch_norm and self.min_workers != self.workers:
            raise ValueError(
                f"sync_batch_norm: what is learned depends on the number of workers, so min_workers {self.min_workers} "
                f"must be workers {self.workers}"
            )
        return self


class Inference(Section):
    """How a semantic model is asked; registered with it."""

    tile: Annotated[list[Annotated[int, Field(ge=16)]], Field(min_length=2, max_length=2)] | None
    overlap: Annotated[float, Field(ge=0, lt=1)]
    context: Count
    scales: Annotated[list[Annotated[float, Field(gt=0, le=8)]], Field(min_length=1)]
    flip: bool
    crf: CRF


class Evaluate(Section):
    split: Literal["train", "val", "test"]
    batch_size: Positive
    workers: Count
    cases: Count
    resamples: Count
    boundary: Fraction
    edge: Fraction
    inference: Inference


class Significance(Section):
    """Of the challenger's gain, by a paired bootstrap over images."""

    level: Annotated[float, Field(ge=0.5, lt=1)]
    resamples: Annotated[int, Field(ge=200)]


class Register(Section):
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=200)]
    min_gain: Weight
    max_class_drop: Fraction | None
    significance: Significance | None
    floors: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    limits: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] | None


FormatOfResults = Literal["rle", "coco", "png", "overlay"]
Pixels = Annotated[int, Field(ge=1, le=1 << 26)]  # as many as ingest takes
Device = Literal["auto", "cpu", "cuda"]


class Predict(Section):
    """Of images and videos from anywhere: beside the line."""

    formats: Annotated[list[FormatOfResults], Field(min_length=1)]
    batch_size: Positive
    workers: Count
    decoders: Positive
    device: Device
    part: Positive
    min_score: Fraction
    alpha: Fraction
    max_pixels: Pixels
    frame_step: Positive


class Serve(Section):
    """An HTTP service: beside the line."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=0, le=65535)]
    allowed_hosts: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    replicas: Positive
    decoders: Positive
    device: Device
    max_batch: Positive
    batch_wait_ms: Weight
    max_body_mb: Above0
    max_pixels: Pixels
    max_waiting: Positive
    max_connections: Positive
    idle_seconds: Above0
    answer_seconds: Above0
    drain_seconds: Above0
    min_score: Fraction
    alpha: Fraction
