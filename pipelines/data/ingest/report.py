"""The account of an ingest: what became of every image that the source names or shows, and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.data.faults import KINDS, Fault
from pipelines.errors import DataError, bounded


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """results/ingest/report.json."""

    outcome: str  # "written", or "stopped": then there is no dataset
    why: str  # of a stop
    dataset: str | None  # its hash
    kept: int
    mended: int  # of the kept
    skipped: int
    quarantined: int
    max_rejected: float
    source_hashes: bool
    faults: tuple[Fault, ...]

    @property
    def found(self) -> int:
        return self.kept + self.skipped + self.quarantined

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "dataset": self.dataset,
            "images": {
                "found": self.found,
                "kept": self.kept,
                "mended": self.mended,
                "skipped": self.skipped,
                "quarantined": self.quarantined,
            },
            "max_rejected": self.max_rejected,
            "source_hashes": self.source_hashes,
            "counts": {kind: n for kind in KINDS if (n := sum(f.kind == kind for f in self.faults))},
            "findings": [fault.to_json() for fault in self.faults],
        }

    def refusal(self, where: str, listed: str) -> DataError:
        """What the stage says when the line stops; `listed` names the report."""
        told = [fault.line for fault in self.faults if not fault.harmless]
        said = f"{where}: {len(told)} fault{'s' * (len(told) != 1)}, nothing was written{self.why and f': {self.why}'}"
        do = f"mend or remove these files, and run the stage again; {listed} lists them all"
        return DataError(said, bounded(told), do=do)


def account(faults: Sequence[Fault], *, kept: int, max_rejected: float, source_hashes: bool, holds: str) -> Report:
    """Sorted by what is to be done first: stops, then what was left out, then what was mended."""
    order = {"stop": 0, "quarantined": 1, "skipped": 2, "mended": 3}
    listed = sorted(set(faults), key=lambda f: (order[f.outcome], f.file, f.kind, f.reason, f.item))
    items = {outcome: {f.item or f.file for f in listed if f.outcome == outcome} for outcome in order}
    quarantined, found = len(items["quarantined"]), kept + len(items["quarantined"])  # of those with labels
    why = ""
    if items["stop"]:
        why = "the dataset as a whole cannot be used"
    elif not found:
        nothing = f"none of {len(items['skipped'])} images has labels" if items["skipped"] else "there are no images"
        listed = [Fault("layout", "", f"{nothing}: dataset.root must hold {holds}"), *listed]
        why = nothing
    elif quarantined > max_rejected * found or not kept:
        why = f"{quarantined} of {found} images cannot be used, dataset.max_rejected allows {max_rejected:.2%} of them"
    return Report(
        outcome="stopped" if why else "written",
        why=why,
        dataset=None,
        kept=kept,
        mended=len(items["mended"] - items["quarantined"]),
        skipped=len(items["skipped"] - items["quarantined"]),
        quarantined=quarantined,
        max_rejected=max_rejected,
        source_hashes=source_hashes,
        faults=tuple(listed),
    )
