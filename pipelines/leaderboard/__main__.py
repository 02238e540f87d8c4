"""make zoo: train the models of zoo.yaml on one dataset with one budget, and write results/zoo/leaderboard.*"""

import argparse
import sys
from pathlib import Path

from pipelines import environment, files
from pipelines.errors import ConfigError, MasklineError


def main() -> int:
    environment.prepare()
    parser = argparse.ArgumentParser(prog="python -m pipelines.leaderboard", description=__doc__)
    parser.add_argument("zoo", type=Path, nargs="?", default=Path("zoo.yaml"), help="the list of models")
    parser.add_argument("--data", default="", metavar="ROOT", help="the dataset's folder, in place of dataset.root")
    parser.add_argument("--only", nargs="+", default=[], metavar="MODEL", help="these of the list")
    arguments = parser.parse_args()
    try:
        return compare(arguments.zoo, Path.cwd(), arguments.only, arguments.data)
    except MasklineError as error:
        print(f"zoo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("zoo: interrupted; what is done is kept", file=sys.stderr)
        return 130


def compare(zoo: Path, root: Path, only: list[str], dataset: str) -> int:
    from pipelines.leaderboard import entries, run

    chosen = entries.read(zoo, root / "params.yaml", dataset=dataset)
    if unknown := set(only) - {entry.name for entry in chosen}:
        raise ConfigError(f"{zoo} has no {', '.join(sorted(unknown))}", do=f"add it to {zoo}")
    chosen = [entry for entry in chosen if not only or entry.name in only]
    folder = root / "runs" / "zoo"
    data = run.prepare(folder, chosen[0], root)
    done, failed = {}, []
    for number, entry in enumerate(chosen, 1):
        print(f"zoo: {number} of {len(chosen)}: {entry.name}", flush=True)
        try:
            done[entry.name] = run.run(folder, entry, data, root)
        except MasklineError as error:
            failed.append(f"{entry.name}: {error}")
            print(f"zoo: {failed[-1]}", file=sys.stderr, flush=True)
    if done:
        _write(root / "results" / "zoo", data, done, failed)
    return 1 if failed else 0


def _write(out: Path, data: Path, done: dict[str, Path], failed: list[str]) -> None:
    from pipelines import config
    from pipelines.data.shards import read_manifest
    from pipelines.inference import package
    from pipelines.leaderboard import measure, page, run

    manifest = read_manifest(data / "results" / "ingest")
    packages = {name: own / "results" / "train" for name, own in done.items()}
    size = manifest.max_size
    print(f"zoo: measuring {len(done)} models at {size[0]}x{size[1]}", flush=True)
    costs = measure.costs(packages, size)
    params = config.load(next(iter(done.values())) / "params.yaml")
    scores, rows = page.SCORES[params.task], []
    for name, own in done.items():
        found, model = run.metrics(own), package.describe(packages[name])["model"]
        (_, view, headline), *_ = scores
        rows.append(
            page.Row(
                name=name,
                encoder="" if name in config.CLASSICAL else model["encoder"],
                scores=tuple(found[view][key] for _, view, key in scores),
                interval=tuple(found[view].get("intervals", {}).get(headline, ())) or None,
                cost=costs[name],
                training=run.seconds(own)["train"],
            )
        )
    about = (
        f"{params.train.epochs} epochs of {manifest.images['train']} images at {params.train.augment.crop[0]}x"
        f"{params.train.augment.crop[1]} from scratch; scores on the {params.evaluate.split} split; one image of "
        f"{size[0]}x{size[1]} at a time"
    )
    files.write_text(out / "leaderboard.csv", page.as_csv(rows, params.task))
    files.write_text(out / "leaderboard.md", page.as_markdown(rows, params.task))
    title = f"Leaderboard: {manifest.name}"
    files.write_text(
        out / "leaderboard.html", page.as_html(rows, task=params.task, title=title, about=about, failed=failed)
    )
    print(page.as_markdown(rows, params.task) + f"zoo: {out / 'leaderboard.html'}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
