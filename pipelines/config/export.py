"""The section `export`: `python -m stages.export`, which is called beside the line."""

from typing import Literal

from pipelines.config.fields import Positive, Section, Weight


class Calibration(Section):
    """Of what is quantised after training: always on images of the training split."""

    images: Positive
    method: Literal["minmax", "entropy"]


class MaxLoss(Section):
    """By how much a metric may differ from the original's."""

    float32: Weight
    int8: Weight


class Export(Section):
    split: Literal["val", "test"]
    batch_size: Positive
    int8: bool
    calibration: Calibration
    max_loss: MaxLoss
    rounds: Positive
