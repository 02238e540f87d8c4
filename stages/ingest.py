"""Read the dataset in its published format; write Arrow shards, their manifest, and an account of every image."""

from pipelines import files, stage
from pipelines.config import Params
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.data.formats.source import Source
    from pipelines.data.ingest.run import ingest
    from pipelines.data.tree import Tree, is_uri

    dataset = params.dataset
    root = dataset.root if is_uri(dataset.root) else str(paths.root / dataset.root)
    done = ingest(
        format=dataset.format,
        source=Source(
            tree=None if dataset.format == "shapes" else Tree(root, dataset.depth),
            splits=dataset.splits.model_dump(),
            seed=params.seed,
            shapes=dataset.shapes.model_dump(),
        ),
        out=paths.out,
        state=paths.runs / "ingest",
        earlier=paths.of("ingest"),
        workers=params.ingest.workers,
        rows_per_shard=params.ingest.rows_per_shard,
        storage=dataset.storage,
        store=params.ingest.store or "",
        max_rejected=dataset.max_rejected,
        stratify=dataset.stratify,
        group=dataset.group,
    )
    if done.manifest is None:
        listed = paths.of("ingest") / "report.json"
        files.write_json(listed, done.report.to_json())
        raise done.report.refusal(root, str(listed.relative_to(paths.root)))
    files.write_json(paths.out / "report.json", done.report.to_json())
    paths.finished.append(done.settle)
    images = done.report
    return {
        "images": images.kept,
        **{name: n for name, n in {"mended": images.mended, "quarantined": images.quarantined}.items() if n},
        **({"carried over": images.kept - done.read} if done.read < images.kept else {}),
        "classes": len(done.manifest.classes),
        "hash": done.manifest.hash[:12],
    }


if __name__ == "__main__":
    stage.main("ingest", run)
