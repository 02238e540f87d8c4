"""What a search comes to: its best trial, and the front of those that no other beats in both objectives."""

from collections.abc import Sequence
from typing import Any

from pipelines.errors import RunError
from pipelines.training.search.record import Record


def best(records: Sequence[Record], max_latency: float | None = None) -> Record:
    """The highest score among those that ran longest (the others were stopped for a lower one), the first of equals;
    where latency is bounded, among those within it."""
    scored = [r for r in records if r.score is not None]
    if not scored:
        raise RunError(f"every trial failed; the first one: {records[0].error}\ndo: narrow tune.space")
    able = [r for r in scored if max_latency is None or (r.latency is not None and r.latency <= max_latency)]
    if not able:
        fastest = min((r.latency for r in scored if r.latency is not None), default=0.0)
        raise RunError(
            f"no trial is within tune.max_latency {max_latency:g} ms; the fastest takes {fastest:.3g} ms\n"
            "do: raise it, or search over smaller models"
        )
    longest = max(r.epochs for r in able)
    return max((r for r in able if r.epochs == longest), key=lambda r: (r.score, -r.number))


def front(records: Sequence[Record]) -> set[int]:
    """Numbers of the trials that no other equals in one objective and beats in the other."""
    points = [(r.number, r.score, r.latency) for r in records if r.score is not None and r.latency is not None]

    def beaten(score: float, latency: float) -> bool:
        return any(s >= score and t <= latency and (s, t) != (score, latency) for _, s, t in points)

    return {number for number, score, latency in points if not beaten(score, latency)}


def parameters(record: Record, accumulate: int) -> dict[str, Any]:
    """What training merges over params.yaml. What needed smaller micro-batches needs them again."""
    if not record.smaller:
        return record.values
    of = record.values.get("train.accumulate", accumulate)
    return {**record.values, "train.accumulate": of * 2**record.smaller}
