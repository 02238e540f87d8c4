"""How far a run has come, and what it has seen on the way: plain values, a part of each checkpoint."""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.training.job import Row


@dataclass(kw_only=True, slots=True)
class Position:
    """Updates and batches are counted from 0; those before these are done."""

    step: int = 0  # of the run
    epoch: int = 0
    batch: int = 0  # of the epoch
    seconds: float = 0.0  # spent in it
    sums: dict[str, float] = field(default_factory=dict)  # of its losses, by name
    seen: int = 0  # updates that were made in it
    rows: list[Row] = field(default_factory=list)  # of the epochs before it, without their validation

    def state(self) -> dict[str, Any]:
        return asdict(self)

    def saw(self, names: list[str], losses: list[float]) -> None:
        """One update's losses."""
        self.seen += 1
        for name, loss in zip(names, losses, strict=True):
            self.sums[name] = self.sums.get(name, 0.0) + loss

    def close(self, row: Row) -> Row:
        """The epoch is over; `row` is what is to be said of it beside its losses."""
        means = {name: total / max(1, self.seen) for name, total in self.sums.items()}
        terms = {f"loss_{name}": value for name, value in means.items() if name != "loss"}
        whole = {"epoch": self.epoch, **({"train_loss": means["loss"]} if means else {}), **terms, **row}
        self.rows.append(whole)
        self.epoch, self.batch, self.seconds, self.sums, self.seen = self.epoch + 1, 0, 0.0, {}, 0
        return whole
