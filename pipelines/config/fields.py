"""What the sections of params.yaml are made of."""

import reprlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["semantic", "instance", "panoptic"]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]

short = reprlib.Repr()  # of a value in a message: a YAML of ten lines can hold a list of a billion
short.maxlevel, short.maxstring, short.maxother = 2, 80, 80


class Section(BaseModel):
    """Unknown keys are refused, values are not coerced ("4" is no number), nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
