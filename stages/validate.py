"""Judge the dataset that ingest wrote; a broken one stops the line with every fault in one message."""

import sys

from pipelines import files, stage
from pipelines.config import Params
from pipelines.errors import ValidationFailed, bounded
from pipelines.progress import Progress
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.data import shards
    from pipelines.validation import balance, checks, intake

    failed = paths.of("validate-failed")
    for verdict in (paths.of("validate"), failed):
        files.remove(verdict)  # of an earlier dataset: not to be believed, whatever comes of this one

    dataset = paths.of("ingest")
    manifest, asked = shards.read_manifest(dataset), params.validate_
    source = intake.read(dataset, manifest.hash)
    with Progress("validate", sum(manifest.images.values()), "images") as progress:
        tables = checks.tabulate(dataset, source, workers=asked.workers, advance=progress.update)

    # Great Expectations takes seconds to import: the progress above comes first.
    from pipelines.validation import expectations, report, suites

    limits = expectations.Limits(
        task=params.task,
        min_images=asked.min_images.model_dump(),
        max_ignored=asked.max_ignored,
        min_class_pixels=asked.min_class_pixels,
        max_class_drift=asked.max_class_drift,
        max_size_drift=asked.max_size_drift,
    )
    outcomes = expectations.judge(tables, limits, suites.CHECKS, docs=paths.out / "data_docs")
    weights = balance.summarize(
        tables.tally,
        manifest.classes,
        dataset=manifest.hash,
        repeat_threshold=asked.repeat_threshold,
        effective_beta=asked.effective_beta,
    )
    files.write_json(paths.out / "balance.json", weights)
    files.write_json(paths.out / "report.json", report.summarize(tables, outcomes))
    files.write_text(paths.out / "report.html", report.page(tables, outcomes, weights, dataset))

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
