"""Read the dataset in the format it is published in; write Arrow shards and their manifest."""

from pipelines import stage
from pipelines.config import Params
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths) -> Summary:
    from pipelines.data.formats.source import Source
    from pipelines.data.ingest import ingest

    dataset = params.dataset
    manifest = ingest(
        format=dataset.format,
        source=Source(
            root=None if dataset.format == "shapes" else paths.root / dataset.root,
            splits=dataset.splits.model_dump(),
            seed=params.seed,
            shapes=dataset.shapes.model_dump(),
        ),
        out=paths.out,
        workers=params.ingest.workers,
        rows_per_shard=params.ingest.rows_per_shard,
    )
    return {"images": sum(manifest.images.values()), "classes": len(manifest.classes), "hash": manifest.hash[:12]}


if __name__ == "__main__":
    stage.main("ingest", run)
