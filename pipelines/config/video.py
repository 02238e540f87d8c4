"""The section `video`, of `python -m pipelines.video`: no stage reads it."""

from typing import Annotated

from pydantic import Field

from pipelines.config.fields import Above0, Count, Fraction, Positive, Section, Weight
from pipelines.config.sections import Shapes


class MovingShapes(Shapes):
    videos: Positive
    frames: Annotated[int, Field(ge=2)]


class Propagate(Section):
    stride: Positive
    flow: bool
    memory: Count
    finer: Positive
    radius: Positive
    most: Positive
    temperature: Above0
    snap: Annotated[float, Field(gt=0, le=1)] | None
    again: Annotated[float, Field(ge=-1, le=1)] | None


class Track(Section):
    min_score: Fraction
    most: Positive
    birth: Fraction
    flow: bool
    min_overlap: Fraction
    stride: Positive
    look: Weight
    label: Weight
    memory: Count
    again: Annotated[float, Field(ge=-1, le=1)]
    confirm: Positive


class Video(Section):
    max_pixels: Annotated[int, Field(ge=1, le=1 << 26)]
    max_frames: Positive
    pictures: Positive
    shapes: MovingShapes
    propagate: Propagate
    track: Track
