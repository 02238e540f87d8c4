"""Judge the dataset that ingest wrote; a broken one stops the line with every fault in one message."""

import sys

from pipelines import files, stage
from pipelines.config import Params
from pipelines.errors import ValidationFailed, bounded
from pipelines.progress import Progress
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.data import shards
    from pipelines.validation import checks

    failed = paths.of("validate-failed")
    for verdict in (paths.of("validate"), failed):
        files.remove(verdict)  # of an earlier dataset: not to be believed, whatever comes of this one

    dataset = paths.of("ingest")
    images = sum(shards.read_manifest(dataset).images.values())
    with Progress("validate", images, "images") as progress:
        tables = checks.tabulate(dataset, advance=progress.update)

    # Great Expectations takes seconds to import: the progress above comes first.
    from pipelines.validation import expectations, report, suites

    limits = expectations.Limits(task=params.task, **params.validate_.model_dump())
    outcomes = expectations.judge(tables, limits, suites.CHECKS, docs=paths.out / "data_docs")
    files.write_json(paths.out / "report.json", report.summarize(tables, outcomes))
    files.write_text(paths.out / "report.html", report.page(tables, outcomes, dataset))

    faults, warnings = report.faults(outcomes), report.warnings(outcomes)
    for line in bounded([warning.line for warning in warnings]):
        print(f"validate: warning: {line}", file=sys.stderr)
    if faults:
        paths.out.rename(failed)
        raise ValidationFailed(
            f"the dataset breaks {len(faults)} of {len(outcomes)} expectations",
            bounded([fault.line for fault in faults]),
            do=f"see {failed.relative_to(paths.root)}/report.html, mend the dataset, then run again",
        )
    return {"checks": len(outcomes), "warnings": len(warnings)}


if __name__ == "__main__":
    stage.main("validate", run)
