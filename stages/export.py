"""export: the trained model as ONNX, in float32 and int8, each held against it; called beside the line.

    python -m stages.export [--model models:/maskline-panoptic@champion]

Reads results/ingest, results/train (or another package) and the section export. Writes float32/ and int8/, packages
that are loaded and asked as the original is, and parity.json: metrics, latencies, sizes and memory of all of them.
Where a metric differs by more than export.max_loss the stage fails, and results/export holds no export.
"""

import argparse
from functools import partial

from pipelines import files, stage
from pipelines.config import Params
from pipelines.stage import Paths, Summary


def run(params: Params, paths: Paths, *, model: str | None = None) -> Summary:
    from pipelines.exporting import table
    from pipelines.exporting.memory import peak
    from pipelines.exporting.run import Settings, export
    from pipelines.inference import package
    from pipelines.registry.fetch import fetch

    source = paths.of("train") if model is None else fetch(model, paths.root).folder
    table.row_of(package.describe(source))
    files.remove(paths.of("export"))  # an earlier model's would be taken for this one's, should this one fail
    found = export(source, paths.of("ingest"), paths.out, Settings(**params.export.model_dump()))
    for name, side in found["sides"].items():
        side["memory_bytes"] = peak(source if name == "torch" else paths.out / name, found["image"])
    files.write_json(paths.out / "parity.json", found)
    return {
        name: f"{side['file_bytes'] / 1e6:.1f} MB, {side['speed']:.2f} times as fast"
        for name, side in found["sides"].items()
        if name != "torch"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="models:/NAME@ALIAS, models:/NAME/VERSION, or a package's folder")
    stage.main("export", partial(run, model=parser.parse_args().model))


if __name__ == "__main__":
    main()
