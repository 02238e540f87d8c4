"""predict: segment images and videos with a trained model. Beside the line: no stage of dvc.yaml.

    python -m stages.predict photos/ clip.mp4 's3://bucket/**/*.jpg' --formats coco overlay --out results/predict

Reads the sections predict and register (the champion's name) and the model. Writes, by the formats that are asked for
(pipelines/prediction/formats.py lists them), what was found, and report.json: how many results there are, and every
image without one, with the reason. An interrupted run goes on where it stood; ends with 2 where an image gave none.
"""

import argparse
from pathlib import Path
from typing import get_args

from pipelines import config, files, stage
from pipelines.config.sections import FormatOfResults
from pipelines.stage import Summary

OPTIONS = ("formats", "batch_size", "workers", "min_score", "frame_step", "device")  # of the section


def main() -> None:
    stage.conclude("predict", lambda: run(arguments()), interrupted="the same command goes on where it stood")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description=__doc__.split(".")[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, pattern, video, s3://bucket/path")
    parser.add_argument("--model", help="models:/name@alias, models:/name/version, or a folder; else the champion")
    parser.add_argument("--out", type=Path, default=Path("results/predict"), help="folder of the results")
    parser.add_argument("--replace", action="store_true", help="begin again, where --out holds another run's results")
    parser.add_argument("--formats", nargs="+", choices=get_args(FormatOfResults), help="what is written")
    for name, kind in (("batch-size", int), ("workers", int), ("min-score", float), ("frame-step", int)):
        parser.add_argument(f"--{name}", type=kind, help=f"in place of predict.{name.replace('-', '_')}")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="in place of predict.device")
    return parser.parse_args()


def run(asked: argparse.Namespace) -> Summary:
    root = Path.cwd()
    params = parameters(root, asked)
    section = params.predict

    from pipelines.prediction import sources
    from pipelines.prediction.ledger import PARTS
    from pipelines.prediction.run import check, predict
    from pipelines.prediction.work import Options
    from pipelines.registry.fetch import fetch

    listing = sources.find(asked.sources)
    model = fetch(asked.model or f"models:/{params.register_.name}-{params.task}@champion", root)
    out = Path(root, asked.out).resolve()
    options = Options(
        package=model.folder,
        out=out,
        formats=tuple(section.formats),
        batch_size=section.batch_size,
        decoders=section.decoders,
        device=section.device,
        part=section.part,
        min_score=section.min_score,
        alpha=section.alpha,
        max_pixels=section.max_pixels,
        frame_step=section.frame_step,
    )
    with files.locked(out.with_name(f".{out.name}.lock")):
        if asked.replace and (out / PARTS).is_dir():
            files.remove(out)
        account = predict(listing, options, model=model.name, workers=section.workers)
    check(account, asked.out)
    carried = {"carried over": account.carried_over} if account.carried_over else {}
    passed = {"passed over": len(account.passed_over)} if account.passed_over else {}
    return {"model": model.name, "results": account.results, **carried, **passed, "in": asked.out}


def parameters(root: Path, asked: argparse.Namespace) -> config.Params:
    """params.yaml, with the command's options over it."""
    given = {f"predict.{name}": getattr(asked, name) for name in OPTIONS}
    over = {name: value for name, value in given.items() if value is not None}
    source = f"params.yaml{' and the options' if over else ''}"
    return config.parse(config.merge(config.read(root / "params.yaml"), over), source)


if __name__ == "__main__":
    main()
