"""Recipes: what each architecture was trained with by those who published it, put into params.yaml by one command.

    python -m pipelines.recipes --list
    python -m pipelines.recipes mask2former

A recipe is recipes/<model>.yaml: dotted names of params.yaml and their values, below a comment that says where they
are from and what had to be changed. Comments and layout of params.yaml stay.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pipelines import config, files
from pipelines.config.edit import edit, written
from pipelines.errors import ConfigError, MasklineError, did_you_mean

FOLDER = "recipes"
PARAMS = "params.yaml"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m pipelines.recipes", description=(__doc__ or "").splitlines()[0])
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("model", nargs="?", help=f"put its recipe into {PARAMS}")
    asked.add_argument("--list", action="store_true", help="what there is")
    arguments = parser.parse_args()
    try:
        print("\n".join(summaries(Path.cwd()) if arguments.list else apply(Path.cwd(), arguments.model)))
    except MasklineError as error:
        print(f"recipes: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def names(root: Path) -> list[str]:
    return sorted(path.stem for path in (root / FOLDER).glob("*.yaml"))


def summaries(root: Path) -> list[str]:
    """A line for each: its name and the first line of its comment."""
    first = {
        name: (root / FOLDER / f"{name}.yaml").read_text(encoding="utf-8").split("\n", 1)[0] for name in names(root)
    }
    return [f"{name:22}{line.removeprefix('# ')}" for name, line in first.items()]


def apply(root: Path, name: str) -> list[str]:
    """Set the recipe's values, if the whole file is then one that can be run; returns what was changed."""
    known = names(root)
    if name not in known:
        hint = did_you_mean(name, known)
        raise ConfigError(f"there is no recipe for '{name}'{hint}", do=f"choose one of {', '.join(known)}")
    path, recipe = root / PARAMS, config.read(root / FOLDER / f"{name}.yaml")
    before = config.read(path)
    text = edit(path.read_text(encoding="utf-8"), recipe)
    config.parse(config.merge(before, recipe), f"{PARAMS} with {FOLDER}/{name}.yaml over it")
    files.write_text(path, text)
    old = config.flatten(before)
    changed = [f"{key}: {written(old[key])} -> {written(value)}" for key, value in recipe.items() if old[key] != value]
    return [*changed, *_searched(before, recipe)]


def _searched(raw: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """What `tune` would draw anew, from ranges around other values."""
    both = [key for key in raw["tune"]["space"] if key in recipe] if raw["tune"]["trials"] else []
    return [f"note: tune.space searches {', '.join(both)} too: set tune.trials: 0, or move the ranges"] if both else []


if __name__ == "__main__":
    sys.exit(main())
