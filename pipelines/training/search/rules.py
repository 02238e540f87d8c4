"""Who goes on: functions of what is known of the trials alone, so that a search that was killed decides as before."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pipelines.training.search.record import Record

Verdict = Literal["run", "wait", "stop"]
Records = Mapping[int, Record]


class Copy(NamedTuple):
    """Go on from the donor's weights, with these values."""

    donor: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Opening:
    """All trials have come to an epoch, and go on: some of them as others."""

    epoch: int
    copies: dict[int, Copy]


class Rule:
    """Lets every trial run to its end; others say who waits, stops or changes."""

    def judge(self, records: Records, total: int) -> dict[int, Verdict]:
        """For each live trial; `total` counts those that are still to come."""
        return {n: "run" for n, record in records.items() if record.live}

    def opening(self, records: Records, total: int) -> Opening | None:
        """What has to happen before anything else goes on."""
        return None
