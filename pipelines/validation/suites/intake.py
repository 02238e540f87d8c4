"""What ingest left out: the dataset is smaller than its source, and whoever reads a score should know."""

from pipelines.validation.checks import Tables
from pipelines.validation.expectations import Check
from pipelines.validation.suites.terms import between


def left_out(tables: Tables) -> dict[str, str]:
    """How many images of how many, and why."""
    intake = tables.intake
    kinds = ", ".join(f"{kind} {n}" for outcome, kind, n in intake.kinds() if outcome == "quarantined")
    share = intake.quarantined / max(intake.found, 1)
    return {
        "images": f"{intake.quarantined} of {intake.found} images ({share:.1%})",
        "kinds": kinds or "no reason given",
    }


INTAKE = (
    Check(
        name="ingest.quarantined",
        table="dataset",
        **between("quarantined", max_value=0),
        severity="warning",
        expected="ingest left no image out",
        fault="ingest left out {images}, for these faults: {kinds}",
        detail=left_out,
        do="mend these files, listed under Source in report.html, or accept that the dataset is without them",
    ),
)
