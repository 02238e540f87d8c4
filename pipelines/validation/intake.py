"""What ingest said of the source: which images it left out, which it mended, and why."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.errors import DataError

REDO = "dvc repro --force ingest"
OUTCOMES = ("quarantined", "skipped", "mended")  # of an image in a dataset that was written; the graver first


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault in the source, and what became of it."""

    file: str
    outcome: str
    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Intake:
    """Ingest's report on the dataset that it wrote."""

    found: int  # images: kept, skipped and quarantined
    kept: int
    mended: int  # of the kept
    skipped: int  # published without labels
    quarantined: int
    max_rejected: float
    source_hashes: bool  # the source brought SHA256SUMS
    findings: tuple[Finding, ...]  # quarantined first, then by kind and file

    def kinds(self) -> list[tuple[str, str, int]]:
        """Outcome, kind and how many findings; quarantined first, then the most frequent."""
        counts = Counter((f.outcome, f.kind) for f in self.findings)
        rows = [(outcome, kind, n) for (outcome, kind), n in counts.items()]
        return sorted(rows, key=lambda row: (OUTCOMES.index(row[0]), -row[2], row[1]))

    def summary(self) -> dict[str, Any]:
        """Numbers alone: the findings stay in ingest's report."""
        return {
            "images": {name: getattr(self, name) for name in ("found", "kept", "mended", "skipped", "quarantined")},
            "source_hashes": self.source_hashes,
            "findings": [{"outcome": o, "kind": kind, "count": n} for o, kind, n in self.kinds()],
        }


def read(folder: Path, dataset: str) -> Intake:
    """folder/report.json, which must be about the dataset of that hash; else a DataError that says what to do."""
    path = folder / "report.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        outcome, about = raw["outcome"], raw["dataset"]
        intake = _intake(raw) if outcome == "written" else None
    except FileNotFoundError:
        raise DataError(f"{path} is missing", do="dvc repro ingest") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else error
        raise DataError(f"{path} is damaged: {said}", do=REDO) from None
    if intake is None:
        raise DataError(f"{path} says that ingest {outcome}, and wrote no dataset", do="dvc repro ingest")
    if about != dataset:
        raise DataError(
            f"{path} is about the dataset {str(about)[:12]}, and dataset.json is the dataset {dataset[:12]}", do=REDO
        )
    return intake


def _intake(raw: dict[str, Any]) -> Intake:
    images = {name: _count(raw["images"][name], name) for name in ("found", "kept", "mended", "skipped", "quarantined")}
    if images["found"] != images["kept"] + images["skipped"] + images["quarantined"]:
        raise ValueError(f"images do not add up: {images}")
    findings = [Finding(**{name: printable(row[name]) for name in Finding.__slots__}) for row in raw["findings"]]
    if strange := sorted({f.outcome for f in findings} - set(OUTCOMES)):
        raise ValueError(f"a finding with the outcome {strange[0]!r}")
    return Intake(
        **images,
        max_rejected=float(raw["max_rejected"]),
        source_hashes=bool(raw["source_hashes"]),
        findings=tuple(sorted(findings, key=lambda f: (OUTCOMES.index(f.outcome), f.kind, f.file, f.reason))),
    )


def _count(value: Any, name: str) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"images.{name} is no count")
    return value


def printable(text: Any) -> str:
    """As people can read it: bytes that are no UTF-8, control characters and those that turn the direction of
    writing are written as escapes."""
    if not isinstance(text, str):
        raise ValueError(f"{type(text).__name__} where a text should be")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
