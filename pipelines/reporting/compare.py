"""Two evaluated runs side by side:

    python -m pipelines.reporting.compare FIRST SECOND [--out comparison.html]

FIRST and SECOND are folders of projects in which `dvc repro evaluate` has run (another clone, or what `dvc exp` left),
on the same images. The page is `register`'s: differences are those of SECOND from FIRST.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pipelines import environment, files
from pipelines.errors import DataError, MasklineError

RESAMPLES, BATCH = 1000, 8


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("first", type=Path, help="a project's folder")
    parser.add_argument("second", type=Path, help="another's")
    parser.add_argument("--out", type=Path, default=Path("comparison.html"), help="the page (default: %(default)s)")
    asked = parser.parse_args(arguments)
    environment.prepare()
    try:
        page = compare(asked.first, asked.second)
    except MasklineError as error:
        print(f"compare: {error}", file=sys.stderr)
        return error.exit_code
    files.write_text(asked.out, page)
    print(f"compare: {asked.out}")
    return 0


def compare(first: Path, second: Path) -> str:
    """The page."""
    from pipelines.data.schema import ClassInfo
    from pipelines.data.shards import ShardReader
    from pipelines.evaluation.per_image import PerImage
    from pipelines.inference import package
    from pipelines.inference.options import Inference
    from pipelines.reporting import comparison, sides

    found = [(root, package.describe(root / "results/train"), _metrics(root)) for root in (first, second)]
    (_, one, old), (_, other, new) = found
    if (one["task"], one["classes"]) != (other["task"], other["classes"]):
        raise DataError(
            f"{first} does the {one['task']} task with {len(one['classes'])} classes, {second} the {other['task']} "
            f"task with {len(other['classes'])}: they do not compare"
        )
    if old["dataset"] != new["dataset"]:
        said = " and ".join(f"{m['dataset']['hash'][:16]}, {m['dataset']['split']} split" for m in (old, new))
        raise DataError(f"the two were measured on different images: {said}", do="evaluate both on the same ones")
    task, dataset = one["task"], old["dataset"]
    classes = [ClassInfo(**{**c, "color": tuple(c["color"])}) for c in one["classes"]]
    reader = ShardReader(first / "results/ingest", dataset["split"])
    there = reader if reader.manifest.hash == dataset["hash"] else None
    before, after = (
        sides.measure(
            name,
            metrics=metrics,
            images=PerImage.read(root / "results/evaluate/images.npz", task=task, classes=classes),
            load=partial(package.load, root / "results/train", inference=Inference.of(metrics.get("inference"))),
            reader=there,
            batch_size=BATCH,
            identity={
                "folder": str(root),
                "model": f"{about['model']['name']}, {about['model'].get('encoder', 'none')}",
                "trained on": f"{about['dataset']['name']} {about['dataset']['hash']}",
                "weights": about["weights"]["sha256"],
            },
        )
        for name, (root, about, metrics) in zip(_names(first, second), found, strict=True)
    )
    return comparison.render(
        before,
        after,
        there,
        task=task,
        classes=classes,
        dataset={"name": reader.manifest.name, "split": dataset["split"], "dataset hash": dataset["hash"]},
        resamples=RESAMPLES,
        seed=0,
    )


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What tells them apart."""
    names = first.resolve().name, second.resolve().name
    return names if names[0] != names[1] else (str(first), str(second))


def _metrics(root: Path) -> dict[str, Any]:
    path = root / "results/evaluate/metrics.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        _ = found["dataset"]["hash"], found["dataset"]["split"]
    except FileNotFoundError:
        raise DataError(f"{path} is missing", do=f"evaluate it: dvc repro evaluate, in {root}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error!r}", do="measure again: dvc repro --force evaluate") from None
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())
