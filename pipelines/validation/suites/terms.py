"""Short names for the expectations that the suites use most, and for the tasks that they concern."""

from typing import Any

import great_expectations.expectations as gxe
from great_expectations.expectations.row_conditions import Column

SEGMENTED = ("instance", "panoptic")  # the tasks that learn from segments
DENSE = ("semantic", "panoptic")  # and those that learn from semantic maps
TRAIN = Column("split") == "train"


def between(column: str, **arguments: Any) -> dict[str, Any]:
    return {"type": gxe.ExpectColumnValuesToBeBetween, "arguments": {"column": column, **arguments}}


def equal(a: str, b: str) -> dict[str, Any]:
    return {"type": gxe.ExpectColumnPairValuesToBeEqual, "arguments": {"column_A": a, "column_B": b}}


def always(column: str, value: bool = True) -> dict[str, Any]:
    return {"type": gxe.ExpectColumnValuesToBeInSet, "arguments": {"column": column, "value_set": [value]}}


def never(column: str) -> dict[str, Any]:
    return {"type": gxe.ExpectColumnValuesToBeNull, "arguments": {"column": column}}
